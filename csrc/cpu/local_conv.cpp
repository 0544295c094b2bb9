// Locally connected convolution: a kernel of its own at every output position, so each position is a small matrix
// product over (input channel, tap). Images are lanes, the lane blocks of a batch are the positions of a tile, and the
// weights, which are most of the memory traffic, are read once.
#include <algorithm>
#include <vector>

#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kBlocksAtOnce = 8;  // lane blocks of one pass over the weights

// Images [first, first + count) in lane layout: (channel, cell of D, H, W, lane block, lane).
template <class T>
struct LaneVolume {
  const ConvTable<T>& table = conv_table<T>();
  Axes axes;
  std::vector<std::vector<Unit>> units;
  int64_t blocks = 0, cells = 0;

  LaneVolume(Axes a, int64_t first, int64_t count) : axes(std::move(a)) {
    for (const Axis& axis : axes)
      if (axis.phases.empty()) return;  // nothing but padding: no cells
    for (int i = 0; i < 3; ++i) axes[i].lay_out(1, i == 2);
    cells = axes[0].cells() * axes[1].cells() * axes[2].cells();
    const LaneGroup group{first, count, {1, 1, 1}};
    blocks = group.blocks(table.lanes);
    for (int64_t b = 0; b < blocks; ++b) units.push_back(units_of_block(group, b, table.lanes, axes));
  }

  int64_t vector() const { return blocks * table.lanes; }
  int64_t channel() const { return cells * vector(); }

  void pack(const View<const T>& v, T* dst) const {
    const int64_t planes = axes[0].cells();
    parallel_for(v.shape[1] * planes, [&](int64_t i) {
      for (int64_t b = 0; b < blocks; ++b)
        pack_plane(v, axes, units[b], i / planes, i % planes, dst + i * channel() / planes + b * table.lanes, vector());
    });
  }

  // Adds channel c, packed at src, to v: every cell to where it was read from.
  void add_to(const View<T>& v, int64_t c, const T* src) const {
    const int L = table.lanes;
    const int64_t width = axes[2].cells();
    Scratch<T> plain(L * width);
    std::vector<T*> rows(L);
    for (int l = 0; l < L; ++l) rows[l] = plain.get() + l * width;
    for (const int64_t d : axes[0].cell_at)
      for (const int64_t h : axes[1].cell_at) {
        const T* line = src;
        src += width * vector();
        if (d < 0 || d >= v.shape[2] || h < 0 || h >= v.shape[3]) continue;
        for (int64_t b = 0; b < blocks; ++b) {
          table.deinterleave(line + b * L, vector(), width, rows.data());
          for (int l = 0; l < L && units[b][l].image >= 0; ++l) {
            T* to = v.data + units[b][l].image * v.stride[0] + c * v.stride[1] + d * v.stride[2] + h * v.stride[3];
            for (int64_t i = 0; i < width; ++i) {
              const int64_t at = axes[2].cell_at[i];
              if (at >= 0 && at < v.shape[4]) to[at * v.stride[4]] += rows[l][i];
            }
          }
        }
      }
  }
};

struct WindowTap {
  int64_t k;     // index into K
  int64_t cell;  // relative to the first cell of the position
};

std::vector<WindowTap> window_taps(const ConvGeometry& g, const Axes& axes) {
  std::vector<WindowTap> taps;
  for (const Tap& d : axes[0].phases[0].taps)
    for (const Tap& h : axes[1].phases[0].taps)
      for (const Tap& w : axes[2].phases[0].taps)
        taps.push_back({(d.k * g.kernel[1] + h.k) * g.kernel[2] + w.k,
                        (d.cell * axes[1].cells() + h.cell) * axes[2].cells() + w.cell});
  return taps;
}

// The first cell that output position p reads.
int64_t window_start(const ConvGeometry& g, const Axes& axes, int64_t p) {
  const int64_t d = p / (g.y[1] * g.y[2]), h = p / g.y[2] % g.y[1], w = p % g.y[2];
  return (d * axes[0].step * axes[1].cells() + h * axes[1].step) * axes[2].cells() + w;
}

// Calls step(first, count) on runs of images.
template <class T, class Step>
void for_images(int64_t batch, Step step) {
  const int64_t most = kBlocksAtOnce * conv_table<T>().lanes;
  for (int64_t n = 0; n < batch; n += most) step(n, std::min(most, batch - n));
}

// A tile of any number of positions. x(channels) of x_channel elements, w(channels, taps, outputs).
template <class T>
void run_tile(const ConvTable<T>& table, int outputs, int64_t positions, const T* x, int64_t x_channel,
              int64_t channels, const std::vector<TapOffset>& taps, const T* w, T* y, int64_t y_stride) {
  const int64_t count = static_cast<int64_t>(taps.size());
  for (int64_t p = 0; p < positions;) {
    const int64_t some = std::min<int64_t>(positions - p, table.max_positions[outputs]);
    table.tile[outputs][some](x + p * table.lanes, x_channel, w, count * outputs, channels, taps.data(), count,
                              y + p * table.lanes, y_stride, table.lanes, false);
    p += some;
  }
}

}  // namespace

template <class T>
void local_conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  fill<T>(y, 0.0);
  if (x.size() == 0 || w.size() == 0 || y.size() == 0) return;
  x = x.volume(), y = y.volume();
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, P = g.y_volume();
  for_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const LaneVolume<T> window(gather_axes(g), first, count), result(identity_axes(g), first, count);
    if (window.cells == 0) return;
    const ConvTable<T>& table = window.table;
    const int64_t vector = window.vector();
    const std::vector<WindowTap> taps = window_taps(g, window.axes);
    Scratch<T> xs(g.in_channels * window.channel()), ys(g.out_channels * result.channel());
    window.pack(x, xs.get());
    parallel_for(P * g.groups, [&](int64_t i) {
      const int64_t p = i / g.groups, group = i % g.groups;
      Scratch<T> weights(C * static_cast<int64_t>(taps.size()) * table.kMaxOutputs), sums(table.kMaxOutputs * vector);
      std::vector<TapOffset> offsets(taps.size());
      const T* from = xs.get() + group * C * window.channel() + window_start(g, window.axes, p) * vector;
      for (int64_t o = 0; o < O;) {
        const int tile = tile_outputs(table, O - o);
        const int64_t valid = std::min<int64_t>(tile, O - o);
        for (size_t t = 0; t < taps.size(); ++t) offsets[t] = {taps[t].cell * vector, static_cast<int64_t>(t) * tile};
        T* to = weights.get();
        for (int64_t c = 0; c < C; ++c)
          for (const WindowTap& tap : taps) {
            const T* at =
                w.data + (group * O + o) * w.stride[0] + c * w.stride[1] + p * w.stride[2] + tap.k * w.stride[3];
            for (int j = 0; j < tile; ++j) *to++ = j < valid ? at[j * w.stride[0]] : T(0);
          }
        run_tile(table, tile, window.blocks, from, window.channel(), C, offsets, weights.get(), sums.get(), vector);
        for (int64_t j = 0; j < valid; ++j)
          std::copy_n(sums.get() + j * vector, vector, ys.get() + (group * O + o + j) * result.channel() + p * vector);
        o += tile;
      }
    });
    parallel_for(g.out_channels, [&](int64_t o) { result.add_to(y, o, ys.get() + o * result.channel()); });
  });
}

template <class T>
void local_conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  fill<T>(x, 0.0);
  if (x.size() == 0 || w.size() == 0 || y.size() == 0) return;
  x = x.volume(), y = y.volume();
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, P = g.y_volume();
  for_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const LaneVolume<T> window(gather_axes(g), first, count), source(identity_axes(g), first, count);
    if (window.cells == 0) return;
    const ConvTable<T>& table = window.table;
    const int64_t vector = window.vector();
    const std::vector<WindowTap> taps = window_taps(g, window.axes);
    Scratch<T> ys(g.out_channels * source.channel());
    source.pack(y, ys.get());
    const std::vector<TapOffset> only(1, {0, 0});
    // One input channel owns its window: taps are the tile's outputs, output channels its sum.
    parallel_for(g.in_channels, [&](int64_t channel) {
      const int64_t group = channel / C, c = channel % C, count_taps = static_cast<int64_t>(taps.size());
      Scratch<T> cells(window.channel()), weights(O * table.kMaxOutputs), sums(table.kMaxOutputs * vector);
      std::fill_n(cells.get(), window.channel(), T(0));
      for (int64_t p = 0; p < P; ++p)
        for (int64_t t = 0; t < count_taps;) {
          const int tile = tile_outputs(table, count_taps - t);
          const int64_t valid = std::min<int64_t>(tile, count_taps - t);
          T* to = weights.get();
          for (int64_t o = 0; o < O; ++o) {
            const T* at = w.data + (group * O + o) * w.stride[0] + c * w.stride[1] + p * w.stride[2];
            for (int j = 0; j < tile; ++j) *to++ = j < valid ? at[taps[t + j].k * w.stride[3]] : T(0);
          }
          run_tile(table, tile, window.blocks, ys.get() + group * O * source.channel() + p * vector, source.channel(),
                   O, only, weights.get(), sums.get(), vector);
          for (int64_t j = 0; j < valid; ++j) {
            T* at = cells.get() + (window_start(g, window.axes, p) + taps[t + j].cell) * vector;
            for (int64_t n = 0; n < vector; ++n) at[n] += sums.get()[j * vector + n];
          }
          t += tile;
        }
      window.add_to(x, channel, cells.get());
    });
  });
}

template <class T>
void local_conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  fill<T>(w, 0.0);
  if (x.size() == 0 || w.size() == 0 || y.size() == 0) return;
  x = x.volume(), y = y.volume();
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups;
  for_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const LaneVolume<T> window(gather_axes(g), first, count), source(identity_axes(g), first, count);
    if (window.cells == 0) return;
    const ConvTable<T>& table = window.table;
    const int L = table.lanes;
    const int64_t vector = window.vector();
    const std::vector<WindowTap> taps = window_taps(g, window.axes);
    const int64_t count_taps = static_cast<int64_t>(taps.size());
    Scratch<T> xs(g.in_channels * window.channel()), ys(g.out_channels * source.channel());
    window.pack(x, xs.get());
    source.pack(y, ys.get());
    // Images are the sum here: a tile of output channels times taps, then its lanes.
    parallel_for(g.y_volume() * g.groups, [&](int64_t i) {
      const int64_t p = i / g.groups, group = i % g.groups;
      Scratch<T> cotangent(window.blocks * table.kMaxOutputs * L), lanes(count_taps * table.kMaxOutputs * L);
      Scratch<T> sums(count_taps * table.kMaxOutputs);
      std::vector<TapOffset> offsets(taps.size());
      for (int64_t o = 0; o < O;) {
        const int tile = tile_outputs(table, O - o);
        const int64_t valid = std::min<int64_t>(tile, O - o), widest = table.max_positions[tile];
        for (int64_t b = 0; b < window.blocks; ++b)
          for (int64_t j = 0; j < tile; ++j) {
            const T* from = ys.get() + (group * O + o + j) * source.channel() + p * vector + b * L;
            T* to = cotangent.get() + (b * tile + j) * L;
            j < valid ? std::copy_n(from, L, to) : std::fill_n(to, L, T(0));
          }
        for (int64_t t = 0; t < count_taps; ++t) offsets[t] = {taps[t].cell * vector, t * tile * L};
        for (int64_t c = 0; c < C; ++c) {
          const T* from = xs.get() + (group * C + c) * window.channel() + window_start(g, window.axes, p) * vector;
          std::fill_n(lanes.get(), count_taps * tile * L, T(0));
          std::fill_n(sums.get(), count_taps * tile, T(0));
          for (int64_t t = 0; t < count_taps; t += widest)
            table.weight_tile[tile][std::min(widest, count_taps - t)](from, 0, cotangent.get(), 0, 1, window.blocks,
                                                                      offsets.data() + t, lanes.get());
          table.add_lanes(lanes.get(), count_taps * tile, sums.get());
          for (int64_t j = 0; j < valid; ++j) {
            T* at = w.data + (group * O + o + j) * w.stride[0] + c * w.stride[1] + p * w.stride[2];
            for (int64_t t = 0; t < count_taps; ++t) at[taps[t].k * w.stride[3]] += sums.get()[t * tile + j];
          }
        }
        o += tile;
      }
    });
  });
}

#define GK_INSTANTIATE(T)                                                                            \
  template void local_conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);           \
  template void local_conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void local_conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
