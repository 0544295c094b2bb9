// Locally connected convolution: a kernel of its own at every output position, so each position is a small matrix
// product over (input channel, tap). Images are lanes, the lane blocks of a batch are the positions of a tile, and the
// weights, which are most of the memory traffic, are read once for every kLocalBlocks of them. The gradient of the
// input is the same gather from the other side: a cell of x sums over the positions that read it.
#include "local_conv.hpp"

#include <algorithm>
#include <array>

#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kWeightBytes = 192 << 10;  // packed weights of one task: they stay in the second cache
constexpr int64_t kTasks = 8;                // of a pass, at least, where the cells allow it

int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

// The taps of one axis: step(output, index into the kernel, cell of x).
template <class Step>
void for_axis(const ConvGeometry& g, int axis, int64_t output, Step step) {
  for (int64_t k = 0; k < g.kernel[axis]; ++k) {
    const int64_t at = g.stride[axis] * output + g.dilation[axis] * k - g.pad_lo[axis];
    if (at >= 0 && at < g.x[axis]) step(k, at);
  }
}

// Calls step(position, cell of x, tap) in ascending order of positions, then taps.
template <class Step>
void for_local_taps(const ConvGeometry& g, Step step) {
  int64_t position = 0;
  for (int64_t d = 0; d < g.y[0]; ++d)
    for (int64_t h = 0; h < g.y[1]; ++h)
      for (int64_t w = 0; w < g.y[2]; ++w, ++position)
        for_axis(g, 0, d, [&](int64_t kd, int64_t xd) {
          for_axis(g, 1, h, [&](int64_t kh, int64_t xh) {
            for_axis(g, 2, w, [&](int64_t kw, int64_t xw) {
              step(position, (xd * g.x[1] + xh) * g.x[2] + xw, (kd * g.kernel[1] + kh) * g.kernel[2] + kw);
            });
          });
        });
}

// Images [first, first + count) of dense volumes to and from lane layout.
template <class T>
struct LaneImages {
  const ConvTable<T>& table = conv_table<T>();
  int64_t first, count;

  int64_t blocks() const { return ceil_div(count, table.lanes); }
  int64_t vector() const { return blocks() * table.lanes; }

  // The rows of channel c of the images in block b; `other` for lanes without one.
  template <class U>
  std::vector<U*> rows(const View<U>& v, int64_t c, int64_t b, U* other) const {
    std::vector<U*> rows(table.lanes, other);
    for (int64_t n = b * table.lanes, l = 0; n < count && l < table.lanes; ++n, ++l)
      rows[l] = v.data + (first + n) * v.stride[0] + c * v.stride[1];
    return rows;
  }

  // dst(cell, channel, image), cells `stride` apart
  void pack(const View<const T>& v, int64_t cells, T* dst, int64_t stride) const {
    Scratch<T> zeros(cells);
    std::fill_n(zeros.get(), cells, T(0));
    parallel_for(v.shape[1], [&](int64_t c) {
      for (int64_t b = 0; b < blocks(); ++b)
        table.interleave(rows<const T>(v, c, b, zeros.get()).data(), cells, dst + c * vector() + b * table.lanes,
                         stride);
    });
  }

  // Channel c from src(cell, image).
  void unpack(const T* src, const View<T>& v, int64_t c, int64_t cells) const {
    Scratch<T> nobody(cells);
    for (int64_t b = 0; b < blocks(); ++b)
      table.deinterleave(src + b * table.lanes, vector(), cells, rows<T>(v, c, b, nobody.get()).data());
  }
};

// The weights of a gather: element (group, outer channel, inner channel) is a run over (position, tap).
template <class T>
struct LocalWeights {
  const T* data;
  int64_t group, outer, inner;
};

// A tile's worth of outer channels. Where they leave lanes of a packed vector idle, `inner` channels share it.
struct OuterBlock {
  int64_t first, valid;
  int outputs;
  int64_t inner, width;

  template <class T>
  static std::vector<OuterBlock> cut(const ConvTable<T>& table, int64_t outer, int64_t inner) {
    std::vector<OuterBlock> blocks;
    for (int64_t o = 0; o < outer;) {
      const int outputs = tile_outputs(table, outer - o);
      const int64_t shared = std::min<int64_t>(inner, std::max(1, table.lanes / outputs));
      blocks.push_back({o, std::min<int64_t>(outputs, outer - o), outputs, shared,
                        ceil_div(shared * outputs, table.lanes) * table.lanes});
      o += outputs;
    }
    return blocks;
  }

  int64_t steps(int64_t channels) const { return ceil_div(channels, inner); }

  // dst(step of inner channels, weight [first, last), width): `outputs` numbers of each inner channel
  template <class T>
  void pack(const ConvTable<T>& table, const LocalWeights<T>& w, int64_t group, int64_t channels, int64_t first_weight,
            int64_t last_weight, const T* zeros, T* dst) const {
    const int L = table.lanes;
    const int64_t count = last_weight - first_weight;
    std::vector<const T*> rows(L);
    for (int64_t c = 0; c < channels; c += inner, dst += count * width)
      for (int64_t v = 0; v < width; v += L) {
        for (int l = 0; l < L; ++l) {
          const int64_t more = (v + l) / outputs, o = (v + l) % outputs;
          rows[l] = more < inner && c + more < channels && o < valid
                        ? w.data + group * w.group + (first + o) * w.outer + (c + more) * w.inner + first_weight
                        : zeros;
        }
        table.interleave(rows.data(), count, dst + v, width);
      }
  }
};

// How the blocks of outer channels and the cells of a gather are cut into tasks.
struct GatherTasks {
  int64_t blocks, cells;
};

// to[n, e, cell] = sum over inner channels i, taps of w[e, i, weight] * from[n, i, tap's cell], in this order.
template <class T>
void gather(const View<const T>& from, const LocalWeights<T>& w, const View<T>& to, int64_t groups,
            const LocalTaps& taps, const GatherTasks& tasks) {
  const ConvTable<T>& table = conv_table<T>();
  const int64_t inner = from.shape[1] / groups, outer = to.shape[1] / groups;
  const int64_t from_cells = from.shape[2] * from.shape[3] * from.shape[4], cells = taps.cells();
  const std::vector<OuterBlock> blocks = OuterBlock::cut(table, outer, inner);
  const int64_t block_count = static_cast<int64_t>(blocks.size()), sets = ceil_div(block_count, tasks.blocks);
  const int64_t padded = blocks.back().first + blocks.back().outputs, slabs = ceil_div(cells, tasks.cells);
  int64_t most_reads = 0;
  for (int64_t i = 0; i < cells; ++i) most_reads = std::max(most_reads, taps.count(i));
  for_local_images<T>(from.shape[0], [&](int64_t first_image, int64_t images) {
    const LaneImages<T> lanes{table, first_image, images};
    const int64_t vector = lanes.vector(), channel = cells * vector;
    const int64_t from_cell = from.shape[1] * vector + table.lanes;  // powers of two would meet in one set of a cache
    Scratch<T> packed(from_cells * from_cell), sums(groups * padded * channel);
    lanes.pack(from, from_cells, packed.get(), from_cell);
    parallel_for(groups * sets * slabs, [&](int64_t task) {
      const int64_t group = task / (sets * slabs), set = task / slabs % sets, slab = task % slabs;
      const int64_t first_cell = slab * tasks.cells, last_cell = std::min(cells, first_cell + tasks.cells);
      const int64_t first_block = set * tasks.blocks, last_block = std::min(block_count, first_block + tasks.blocks);
      int64_t first_weight = 0, last_weight = 0;
      if (taps.begin[first_cell] < taps.begin[last_cell]) {
        const auto ends = std::minmax_element(taps.of(first_cell), taps.of(last_cell),
                                              [](const LocalTap& a, const LocalTap& b) { return a.weight < b.weight; });
        first_weight = ends.first->weight, last_weight = ends.second->weight + 1;
      }
      const int64_t count = last_weight - first_weight;
      int64_t room = 0, most_inner = 0;
      for (int64_t b = first_block; b < last_block; ++b)
        room += blocks[b].steps(inner) * count * blocks[b].width, most_inner = std::max(most_inner, blocks[b].inner);
      Scratch<T> weights(room + table.kMaxOutputs), zeros(count);
      std::fill_n(zeros.get(), count, T(0));
      T* to_weights = weights.get();
      for (int64_t b = first_block; b < last_block; ++b) {
        blocks[b].pack(table, w, group, inner, first_weight, last_weight, zeros.get(), to_weights);
        to_weights += blocks[b].steps(inner) * count * blocks[b].width;
      }
      std::vector<TapOffset> offsets(most_inner * most_reads);
      for (int64_t cell = first_cell; cell < last_cell; ++cell) {
        const T* block_weights = weights.get();
        for (int64_t b = first_block; b < last_block; ++b) {
          const OuterBlock& block = blocks[b];
          const int64_t reads = taps.count(cell);
          for (int64_t t = 0; t < reads; ++t) {
            const LocalTap& tap = taps.of(cell)[t];
            offsets[t] = {tap.cell * from_cell, (tap.weight - first_weight) * block.width};
          }
          for (int64_t t = reads; t < block.inner * reads; ++t)
            offsets[t] = {offsets[t - reads].cell + vector, offsets[t - reads].weight + block.outputs};
          const int64_t whole = inner / block.inner, rest = inner % block.inner;
          const T* at = packed.get() + group * inner * vector;
          T* y = sums.get() + (group * padded + block.first) * channel + cell * vector;
          const int64_t pieces = ceil_div(lanes.blocks(), table.max_positions[block.outputs]);
          for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t v = lanes.blocks() * piece / pieces * table.lanes;
            const int64_t wide = lanes.blocks() * (piece + 1) / pieces - lanes.blocks() * piece / pieces;
            const auto tile = table.tile[block.outputs][wide];
            tile(at + v, block.inner * vector, block_weights, count * block.width, whole, offsets.data(),
                 block.inner * reads, y + v, channel, table.lanes, false);
            if (rest > 0)
              tile(at + whole * block.inner * vector + v, 0, block_weights + whole * count * block.width, 0, 1,
                   offsets.data(), rest * reads, y + v, channel, table.lanes, true);
          }
          block_weights += block.steps(inner) * count * block.width;
        }
      }
    });
    parallel_for(to.shape[1], [&](int64_t c) {
      lanes.unpack(sums.get() + (c / outer * padded + c % outer) * channel, to, c, cells);
    });
  });
}

}  // namespace

LocalTaps taps_of_y(const ConvGeometry& g) {
  LocalTaps found;
  const int64_t taps = g.taps();
  found.begin.assign(g.y_volume() + 1, 0);
  for_local_taps(g, [&](int64_t position, int64_t cell, int64_t tap) {
    found.taps.push_back({position * taps + tap, cell});
    found.begin[position + 1] = static_cast<int64_t>(found.taps.size());
  });
  for (size_t p = 1; p < found.begin.size(); ++p) found.begin[p] = std::max(found.begin[p], found.begin[p - 1]);
  return found;
}

LocalTaps taps_of_x(const ConvGeometry& g) {
  const LocalTaps by_position = taps_of_y(g);
  LocalTaps found;
  found.begin.assign(g.x_volume() + 1, 0);
  for (const LocalTap& tap : by_position.taps) ++found.begin[tap.cell + 1];
  for (size_t i = 1; i < found.begin.size(); ++i) found.begin[i] += found.begin[i - 1];
  found.taps.resize(by_position.taps.size());
  std::vector<int64_t> next(found.begin.begin(), found.begin.end() - 1);
  for (int64_t p = 0; p < by_position.cells(); ++p)
    for (const LocalTap* tap = by_position.of(p); tap != by_position.of(p + 1); ++tap)
      found.taps[next[tap->cell]++] = {tap->weight, p};
  return found;
}

template <class T>
void local_conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  if (y.size() == 0) return;
  if (x.size() == 0 || w.size() == 0) return fill<T>(y, 0.0);
  const DenseOperand<T> from(x.volume()), weights(w);
  const DenseResult<T> to(y.volume());
  if (few_local_images<T>(g)) {
    local_conv_few(from.view(), weights.view(), to.view(), g);
  } else {
    const View<const T>& v = weights.view();
    const LocalTaps taps = taps_of_y(g);
    const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups;
    const int64_t bytes = C * g.taps() * static_cast<int64_t>(sizeof(T));  // of one outer channel, one position
    const int64_t wide = conv_table<T>().wide_outputs, run = local_run(conv_table<T>(), g);
    const int64_t blocks = std::clamp<int64_t>(kWeightBytes / (bytes * wide * run), 1, ceil_div(O, wide));
    const int64_t cells = std::clamp(kWeightBytes / (bytes * std::min(O, blocks * wide)), run,
                                     std::max(run, ceil_div(taps.cells(), kTasks)));
    gather<T>(from.view(), {v.data, O * v.stride[0], v.stride[0], v.stride[1]}, to.view(), g.groups, taps,
              {blocks, cells});
  }
  to.finish();
}

template <class T>
void local_conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  if (x.size() == 0) return;
  if (y.size() == 0 || w.size() == 0) return fill<T>(x, 0.0);
  const DenseOperand<T> from(y.volume()), weights(w);
  const DenseResult<T> to(x.volume());
  const View<const T>& v = weights.view();
  const LocalTaps taps = taps_of_x(g);
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups;
  // The weights of a run of cells lie far apart, all between are packed: few runs.
  const int64_t tasks = g.groups * ceil_div(C, conv_table<T>().wide_outputs);
  gather<T>(from.view(), {v.data, O * v.stride[0], v.stride[1], v.stride[0]}, to.view(), g.groups, taps,
            {1, ceil_div(taps.cells(), ceil_div(kTasks, tasks))});
  to.finish();
}

#define GK_INSTANTIATE(T)                                                                  \
  template void local_conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void local_conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
