// Locally connected convolution: a kernel of its own at every output position, so each position is a small matrix
// product over (input channel, tap). Images are lanes, the lane blocks of a batch are the positions of the tile, and
// the weights, which are most of the memory traffic, are read once.
#include <algorithm>
#include <vector>

#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kBatchAtOnce = 8;  // lane blocks, or vectors of taps, of one tile

struct WindowTap {
  int64_t k;     // index into K
  int64_t cell;  // relative to the first cell of the position
};

// The window of every output position in lane layout: x(C, D, H, W cells, lane block, lane).
template <class T>
struct LaneWindow {
  const ConvTable<T>& table = conv_table<T>();
  Axes axes;
  std::vector<WindowTap> taps;
  std::vector<std::vector<Unit>> units;
  int64_t blocks, cells, first_image, images;

  LaneWindow(const ConvGeometry& g, int64_t first, int64_t count)
      : axes(gather_axes(g)), first_image(first), images(count) {
    for (const Axis& a : axes)
      if (a.phases.empty()) {
        cells = 0, blocks = 0;
        return;
      }
    for (int i = 0; i < 3; ++i) axes[i].lay_out(1, i == 2);
    cells = axes[0].cells() * axes[1].cells() * axes[2].cells();
    for (const Tap& d : axes[0].phases[0].taps)
      for (const Tap& h : axes[1].phases[0].taps)
        for (const Tap& w : axes[2].phases[0].taps)
          taps.push_back({(d.k * g.kernel[1] + h.k) * g.kernel[2] + w.k,
                          (d.cell * axes[1].cells() + h.cell) * axes[2].cells() + w.cell});
    const LaneGroup group{first, count, {1, 1, 1}};
    blocks = group.blocks(table.lanes);
    for (int64_t b = 0; b < blocks; ++b) units.push_back(units_of_block(group, b, table.lanes, axes));
  }

  int64_t vector() const { return blocks * table.lanes; }
  int64_t base(const ConvGeometry& g, int64_t p) const {  // cell of output position p
    return (p / (g.y[1] * g.y[2]) * axes[0].step * axes[1].cells() + p / g.y[2] % g.y[1] * axes[1].step) *
               axes[2].cells() +
           p % g.y[2];
  }
  void pack(const View<const T>& x, T* dst) const {
    const int64_t planes = axes[0].cells(), plane = cells / planes;
    parallel_for(x.shape[1] * planes, [&](int64_t i) {
      for (int64_t b = 0; b < blocks; ++b)
        pack_plane(x, axes, units[b], i / planes, i % planes, dst + i * plane * vector() + b * table.lanes, vector());
    });
  }
};

// y packed as (O, P, lane block, lane); missing images are zero
template <class T>
void pack_outputs(const View<const T>& y, const ConvGeometry& g, const LaneWindow<T>& window, T* dst) {
  const int64_t P = g.y_volume(), vector = window.vector();
  parallel_for(g.out_channels, [&](int64_t o) {
    T* to = dst + o * P * vector;
    for (int64_t p = 0; p < P; ++p, to += vector)
      for (int64_t n = 0; n < vector; ++n) {
        const T* from = y.data + (window.first_image + n) * y.stride[0] + o * y.stride[1];
        to[n] = n < window.images ? from[p / (g.y[1] * g.y[2]) * y.stride[2] + p / g.y[2] % g.y[1] * y.stride[3] +
                                         p % g.y[2] * y.stride[4]]
                                  : T(0);
      }
  });
}

template <class T>
int64_t offset_of(const View<T>& v, int64_t n, int64_t c, int64_t d, int64_t h, int64_t w) {
  return n * v.stride[0] + c * v.stride[1] + d * v.stride[2] + h * v.stride[3] + w * v.stride[4];
}

// Calls step(first, count) on runs of images that one tile can hold.
template <class T, class Step>
void for_images(int64_t batch, Step step) {
  const int64_t most = kBatchAtOnce * conv_table<T>().lanes;
  for (int64_t n = 0; n < batch; n += most) step(n, std::min(most, batch - n));
}

// Runs a tile of any number of positions: as many calls as its limit asks for. w(channels, taps, outputs).
template <class T>
void run_tile(const ConvTable<T>& table, int outputs, int64_t positions, const T* x, int64_t x_channel,
              int64_t channels, const std::vector<int64_t>& cells, const T* w, T* y, int64_t y_stride) {
  const int64_t taps = static_cast<int64_t>(cells.size());
  std::vector<TapOffset> tap(taps);
  for (int64_t t = 0; t < taps; ++t) tap[t] = {cells[t], t * outputs};
  for (int64_t p = 0; p < positions;) {
    const int64_t some = std::min<int64_t>(positions - p, table.max_positions[outputs]);
    table.tile[outputs][some](x + p * table.lanes, x_channel, w, taps * outputs, channels, tap.data(), taps,
                              y + p * table.lanes, y_stride, false);
    p += some;
  }
}

}  // namespace

template <class T>
void local_conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  x = x.volume();
  const View<T> out = y.volume();
  if (y.size() == 0) return;
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups;
  for_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const LaneWindow<T> window(g, first, count);
    if (window.cells == 0 || C == 0) return fill<T>(y, 0.0);
    const ConvTable<T>& table = window.table;
    const int64_t vector = window.vector();
    Scratch<T> packed(g.in_channels * window.cells * vector);
    window.pack(x, packed.get());
    std::vector<int64_t> offset;
    for (const WindowTap& tap : window.taps) offset.push_back(tap.cell * vector);
    parallel_for(g.y_volume() * g.groups, [&](int64_t i) {
      const int64_t p = i / g.groups, group = i % g.groups;
      Scratch<T> weights(C * static_cast<int64_t>(offset.size()) * table.kMaxOutputs), sums(table.kMaxOutputs * vector);
      const T* xs = packed.get() + (group * C * window.cells + window.base(g, p)) * vector;
      for (int64_t o = 0; o < O;) {
        const int tile = tile_outputs(table, O - o);
        const int64_t valid = std::min<int64_t>(tile, O - o);
        T* to = weights.get();
        for (int64_t c = 0; c < C; ++c)
          for (const WindowTap& tap : window.taps) {
            const T* from =
                w.data + (group * O + o) * w.stride[0] + c * w.stride[1] + p * w.stride[2] + tap.k * w.stride[3];
            for (int j = 0; j < tile; ++j) *to++ = j < valid ? from[j * w.stride[0]] : T(0);
          }
        run_tile(table, tile, window.blocks, xs, window.cells * vector, C, offset, weights.get(), sums.get(), vector);
        for (int64_t j = 0; j < valid; ++j)
          for (int64_t n = 0; n < count; ++n)
            out.data[offset_of(out, first + n, group * O + o + j, p / (g.y[1] * g.y[2]), p / g.y[2] % g.y[1],
                               p % g.y[2])] = sums.get()[j * vector + n];
        o += tile;
      }
    });
  });
}

template <class T>
void local_conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  const View<T> out = x.volume();
  y = y.volume();
  fill<T>(x, 0.0);
  if (x.size() == 0 || y.size() == 0) return;
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, P = g.y_volume();
  for_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const LaneWindow<T> window(g, first, count);
    if (window.cells == 0) return;
    const ConvTable<T>& table = window.table;
    const int64_t vector = window.vector(), taps = static_cast<int64_t>(window.taps.size());
    Scratch<T> packed(g.out_channels * P * vector);
    pack_outputs(y, g, window, packed.get());
    const std::vector<int64_t> offset(1, 0);
    // One input channel owns its window: taps are the tile's outputs, output channels its sum.
    parallel_for(g.in_channels, [&](int64_t channel) {
      const int64_t group = channel / C, c = channel % C;
      Scratch<T> cells(window.cells * vector), weights(O * table.kMaxOutputs), sums(table.kMaxOutputs * vector);
      std::fill_n(cells.get(), window.cells * vector, T(0));
      for (int64_t p = 0; p < P; ++p)
        for (int64_t t = 0; t < taps;) {
          const int tile = tile_outputs(table, taps - t);
          const int64_t valid = std::min<int64_t>(tile, taps - t);
          T* to = weights.get();
          for (int64_t o = 0; o < O; ++o) {
            const T* from = w.data + (group * O + o) * w.stride[0] + c * w.stride[1] + p * w.stride[2];
            for (int j = 0; j < tile; ++j) *to++ = j < valid ? from[window.taps[t + j].k * w.stride[3]] : T(0);
          }
          run_tile(table, tile, window.blocks, packed.get() + (group * O * P + p) * vector, P * vector, O, offset,
                   weights.get(), sums.get(), vector);
          for (int64_t j = 0; j < valid; ++j) {
            T* at = cells.get() + (window.base(g, p) + window.taps[t + j].cell) * vector;
            for (int64_t n = 0; n < vector; ++n) at[n] += sums.get()[j * vector + n];
          }
          t += tile;
        }
      const T* cell = cells.get();
      for (const int64_t d : window.axes[0].cell_at)
        for (const int64_t h : window.axes[1].cell_at)
          for (const int64_t v : window.axes[2].cell_at) {
            if (d >= 0 && d < g.x[0] && h >= 0 && h < g.x[1] && v >= 0 && v < g.x[2])
              for (int64_t n = 0; n < count; ++n) out.data[offset_of(out, first + n, channel, d, h, v)] += cell[n];
            cell += vector;
          }
    });
  });
}

template <class T>
void local_conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  x = x.volume(), y = y.volume();
  fill<T>(w, 0.0);
  if (w.size() == 0 || x.size() == 0 || y.size() == 0) return;
  const LaneWindow<T> window(g, 0, 1);
  if (window.cells == 0) return;
  const ConvTable<T>& table = window.table;
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups,
                taps = static_cast<int64_t>(window.taps.size());
  const int64_t width = (taps + table.lanes - 1) / table.lanes * table.lanes;
  // Taps are lanes here and images the sum: y(image, channel) times x(image, tap) at every (input channel, position).
  std::vector<int64_t> offset(g.batch);
  for (int64_t n = 0; n < g.batch; ++n) offset[n] = n * width;
  const Axes& axes = window.axes;
  parallel_for(g.in_channels * g.y_volume(), [&](int64_t i) {
    const int64_t channel = i / g.y_volume(), p = i % g.y_volume(), group = channel / C, c = channel % C;
    const int64_t position[3] = {p / (g.y[1] * g.y[2]), p / g.y[2] % g.y[1], p % g.y[2]};
    Scratch<T> columns(g.batch * width), weights(g.batch * table.kMaxOutputs), sums(table.kMaxOutputs * width);
    std::fill_n(columns.get(), g.batch * width, T(0));
    int64_t t = 0;
    for (const Tap& kd : axes[0].phases[0].taps)
      for (const Tap& kh : axes[1].phases[0].taps)
        for (const Tap& kw : axes[2].phases[0].taps) {
          const int64_t d = g.stride[0] * position[0] + kd.e, h = g.stride[1] * position[1] + kh.e,
                        v = g.stride[2] * position[2] + kw.e;
          if (d >= 0 && d < g.x[0] && h >= 0 && h < g.x[1] && v >= 0 && v < g.x[2])
            for (int64_t n = 0; n < g.batch; ++n)
              columns.get()[n * width + t] = x.data[offset_of(x, n, channel, d, h, v)];
          ++t;
        }
    for (int64_t o = 0; o < O;) {
      const int tile = tile_outputs(table, O - o);
      const int64_t valid = std::min<int64_t>(tile, O - o);
      T* to = weights.get();
      for (int64_t n = 0; n < g.batch; ++n)
        for (int j = 0; j < tile; ++j)
          *to++ = j < valid ? y.data[offset_of(y, n, group * O + o + j, position[0], position[1], position[2])] : T(0);
      run_tile(table, tile, width / table.lanes, columns.get(), 0, 1, offset, weights.get(), sums.get(), width);
      for (int64_t j = 0; j < valid; ++j)
        for (int64_t k = 0; k < taps; ++k)
          w.data[(group * O + o + j) * w.stride[0] + c * w.stride[1] + p * w.stride[2] +
                 window.taps[k].k * w.stride[3]] = sums.get()[j * width + k];
      o += tile;
    }
  });
}

#define GK_INSTANTIATE(T)                                                                            \
  template void local_conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);           \
  template void local_conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void local_conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
