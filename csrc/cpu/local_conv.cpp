// Locally connected convolution: a kernel of its own at every output position, so each position is a small matrix
// product over (input channel, tap). Images are lanes, the lane blocks of a batch are the positions of a tile, and the
// weights, which are most of the memory traffic, are read once for every kLocalBlocks of them. The gradient of the
// input is the same gather from the other side: a cell of x sums over the positions that read it.
#include "local_conv.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kWeightBytes = 192 << 10;  // packed weights of one task: they stay in the second cache
constexpr int64_t kTasks = 8;                // of a pass, at least, where the cells allow it

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
  int64_t first = 0, count = 0;

  int64_t blocks() const { return ceil_div(count, conv_table<T>().lanes); }
  int64_t vector() const { return blocks() * conv_table<T>().lanes; }

  // The rows of channel c of the images in block b; `other` for lanes without one.
  template <class U>
  std::vector<U*> rows(const View<U>& v, int64_t c, int64_t b, U* other) const {
    const int64_t L = conv_table<T>().lanes;
    std::vector<U*> rows(L, other);
    for (int64_t n = b * L, l = 0; n < count && l < L; ++n, ++l)
      rows[l] = v.data + (first + n) * v.stride[0] + c * v.stride[1];
    return rows;
  }

  // dst(cell, channel, image), cells `stride` apart
  void pack(const View<const T>& v, int64_t cells, T* dst, int64_t stride) const {
    const ConvTable<T>& table = conv_table<T>();
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
    const ConvTable<T>& table = conv_table<T>();
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

  // Numbers of `count` weights of so many inner channels.
  int64_t packed(int64_t channels, int64_t count) const { return ceil_div(channels, inner) * count * width; }

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

// How many blocks of outer channels and cells make a task.
struct TaskSize {
  int64_t blocks, cells;
};

// to[n, e, cell] = sum over inner channels i, taps of w[e, i, weight] * from[n, i, tap's cell], in this order.
template <class T>
class LocalGather {
 public:
  LocalGather(const View<const T>& from, const LocalWeights<T>& w, const View<T>& to, int64_t groups,
              const LocalTaps& taps, const TaskSize& task)
      : from_(from),
        to_(to),
        w_(w),
        taps_(taps),
        task_(task),
        groups_(groups),
        inner_(from.shape[1] / groups),
        outer_(to.shape[1] / groups),
        blocks_(OuterBlock::cut(table_, outer_, inner_)),
        padded_(blocks_.back().first + blocks_.back().outputs) {
    for (int64_t i = 0; i < taps.cells(); ++i) most_taps_ = std::max(most_taps_, taps.count(i));
  }

  void run() {
    for_local_images<T>(from_.shape[0], [&](int64_t first, int64_t count) {
      lanes_ = {first, count};
      vector_ = lanes_.vector(), channel_ = taps_.cells() * vector_;
      from_cell_ = from_.shape[1] * vector_ + table_.lanes;  // powers of two would meet in one set of a cache
      const int64_t from_cells = from_.shape[2] * from_.shape[3] * from_.shape[4];
      Scratch<T> packed(from_cells * from_cell_), sums(groups_ * padded_ * channel_);
      lanes_.pack(from_, from_cells, packed.get(), from_cell_);
      compute(packed.get(), sums.get());
      parallel_for(to_.shape[1], [&](int64_t c) {
        lanes_.unpack(sums.get() + (c / outer_ * padded_ + c % outer_) * channel_, to_, c, taps_.cells());
      });
    });
  }

 private:
  // Weights [first, last) of a run of cells.
  struct Range {
    int64_t first = 0, last = 0;
    int64_t count() const { return last - first; }
  };

  Range weights_of(int64_t first_cell, int64_t last_cell) const {
    const auto less = [](const LocalTap& a, const LocalTap& b) { return a.weight < b.weight; };
    const auto ends = std::minmax_element(taps_.of(first_cell), taps_.of(last_cell), less);
    if (ends.first == taps_.of(last_cell)) return {};
    return {ends.first->weight, ends.second->weight + 1};
  }

  void compute(const T* packed, T* sums) const {
    const int64_t block_count = static_cast<int64_t>(blocks_.size()), cells = taps_.cells();
    const int64_t sets = ceil_div(block_count, task_.blocks), slabs = ceil_div(cells, task_.cells);
    parallel_for(groups_ * sets * slabs, [&](int64_t i) {
      const int64_t group = i / (sets * slabs), first_block = i / slabs % sets * task_.blocks;
      const int64_t first_cell = i % slabs * task_.cells, last_cell = std::min(cells, first_cell + task_.cells);
      compute(packed + group * inner_ * vector_, sums + group * padded_ * channel_, group, &blocks_[first_block],
              blocks_.data() + std::min(block_count, first_block + task_.blocks), first_cell, last_cell);
    });
  }

  // Some cells of some blocks; `x` and `sums` are those of the group.
  void compute(const T* x, T* sums, int64_t group, const OuterBlock* block, const OuterBlock* end, int64_t first_cell,
               int64_t last_cell) const {
    const Range range = weights_of(first_cell, last_cell);
    int64_t room = 0, most_inner = 0;
    for (const OuterBlock* b = block; b < end; ++b)
      room += b->packed(inner_, range.count()), most_inner = std::max(most_inner, b->inner);
    Scratch<T> weights(room + table_.kMaxOutputs), zeros(range.count());  // a tile may read past the last number
    std::fill_n(zeros.get(), range.count(), T(0));
    T* to = weights.get();
    for (const OuterBlock* b = block; b < end; to += b->packed(inner_, range.count()), ++b)
      b->pack(table_, w_, group, inner_, range.first, range.last, zeros.get(), to);
    std::vector<TapOffset> offsets(most_inner * most_taps_);
    for (int64_t cell = first_cell; cell < last_cell; ++cell) {
      const T* from = weights.get();
      for (const OuterBlock* b = block; b < end; from += b->packed(inner_, range.count()), ++b) {
        place_taps(*b, cell, range.first, offsets.data());
        add(*b, x, from, range.count() * b->width, offsets.data(), taps_.count(cell),
            sums + b->first * channel_ + cell * vector_);
      }
    }
  }

  // The taps of a cell for each inner channel of a step.
  void place_taps(const OuterBlock& block, int64_t cell, int64_t first_weight, TapOffset* offsets) const {
    const int64_t count = taps_.count(cell);
    for (int64_t t = 0; t < count; ++t) {
      const LocalTap& tap = taps_.of(cell)[t];
      offsets[t] = {tap.cell * from_cell_, (tap.weight - first_weight) * block.width};
    }
    for (int64_t t = count; t < block.inner * count; ++t)
      offsets[t] = {offsets[t - count].cell + vector_, offsets[t - count].weight + block.outputs};
  }

  // One cell of one block for all images: steps of `step` weights, the last one may have fewer inner channels.
  void add(const OuterBlock& block, const T* x, const T* weights, int64_t step, const TapOffset* offsets, int64_t count,
           T* y) const {
    const int64_t whole = inner_ / block.inner, rest = inner_ % block.inner, vectors = lanes_.blocks();
    const int64_t pieces = ceil_div(vectors, table_.max_positions[block.outputs]);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t v = vectors * piece / pieces, wide = vectors * (piece + 1) / pieces - v, at = v * table_.lanes;
      const auto tile = table_.tile[block.outputs][wide];
      tile(x + at, block.inner * vector_, weights, step, whole, offsets, block.inner * count, y + at, channel_,
           table_.lanes, false);
      if (rest > 0)
        tile(x + whole * block.inner * vector_ + at, 0, weights + whole * step, 0, 1, offsets, rest * count, y + at,
             channel_, table_.lanes, true);
    }
  }

  const ConvTable<T>& table_ = conv_table<T>();
  const View<const T>& from_;
  const View<T>& to_;
  const LocalWeights<T> w_;
  const LocalTaps& taps_;
  const TaskSize task_;
  const int64_t groups_, inner_, outer_;  // channels per group
  const std::vector<OuterBlock> blocks_;
  const int64_t padded_;  // outer channels of a group, in whole tiles
  int64_t most_taps_ = 0;
  LaneImages<T> lanes_{};
  int64_t vector_ = 0, channel_ = 0, from_cell_ = 0;  // elements of a cell's channel, of a sum's, of a packed cell
};

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
    LocalGather<T>(from.view(), {v.data, O * v.stride[0], v.stride[0], v.stride[1]}, to.view(), g.groups, taps,
                   {blocks, cells})
        .run();
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
  LocalGather<T>(from.view(), {v.data, O * v.stride[0], v.stride[1], v.stride[0]}, to.view(), g.groups, taps,
                 {1, ceil_div(taps.cells(), ceil_div(kTasks, tasks))})
      .run();
  to.finish();
}

#define GK_INSTANTIATE(T)                                                                  \
  template void local_conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void local_conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
