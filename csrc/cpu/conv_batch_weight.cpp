// The weights gradient of the direct convolution: images are lanes, so lanes are part of the sum. A tile of output
// channels times taps runs over a few rows of y that stay in the first-level cache; lanes are added up at the end of a
// slab. Tasks are (channel block, input channel) pairs times a number of slabs that the geometry fixes, added in order.
#include <algorithm>
#include <vector>

#include "conv_paths.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kPackedBytes = int64_t(32) << 20;  // packed x and y held at a time, where one block is smaller
constexpr int64_t kRowBytes = 28 << 10;              // rows of y per pass over the taps
constexpr int64_t kTapsAtOnce = 192;                 // partial sums of a task: 96 KiB in vectors of 64 bytes
constexpr int64_t kSumBytes = 256 << 10;             // up to here one task sums for all input channels
constexpr int64_t kTasks = 64;                       // wanted where there are fewer pairs than this

struct ChannelBlock {
  int64_t first, valid;  // output channels, all groups together
  int64_t group;
  int tile;
  int64_t offset;  // channels of packed y before it
};

template <class T>
class WeightSum {
 public:
  WeightSum(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g)
      : x_(x), y_(y), w_(w), g_(g), axes_(gather_axes(g)), y_axes_(identity_axes(g)), table_(conv_table<T>()) {}

  void run() {
    if (w_.size() == 0) return;
    for (const Axis& a : axes_) taps_ *= a.phases.empty() ? 0 : static_cast<int64_t>(a.phases[0].taps.size());
    const bool whole = taps_ == g_.taps() && y_.size() > 0;
    if (!whole) fill<T>(w_, 0.0);
    if (taps_ == 0 || y_.size() == 0) return;
    const int64_t outputs = g_.out_channels / g_.groups;
    inputs_ = g_.in_channels / g_.groups;
    for (int64_t group = 0; group < g_.groups; ++group)
      for (int64_t o = 0; o < outputs;) {
        int tile = tile_outputs(table_, outputs - o);
        if (inputs_ == 1 && tile == 8) tile = 4;  // one input channel: more rows at a time, fewer rounds of the sums
        blocks_.push_back({group * outputs + o, std::min<int64_t>(tile, outputs - o), group, tile, y_channels_});
        y_channels_ += tile;
        o += tile;
      }
    const int64_t sum_bytes = taps_ * blocks_[0].tile * table_.lanes * static_cast<int64_t>(sizeof(T));
    inputs_at_once_ = taps_ <= kTapsAtOnce && inputs_ * sum_bytes <= kSumBytes ? inputs_ : 1;
    const int64_t pairs = static_cast<int64_t>(blocks_.size()) * (inputs_ / inputs_at_once_);
    slabs_ = pairs >= kTasks ? 1 : (kTasks + pairs - 1) / pairs;
    sums_.assign(slabs_ * y_channels_ * inputs_ * taps_, T(0));
    const double work = 0.05 * static_cast<double>(taps_) * static_cast<double>(outputs);
    for (const LaneGroup& group : lane_groups(g_.batch, table_.lanes, axes_, work)) add_group(group);
    parallel_for(static_cast<int64_t>(blocks_.size()) * inputs_,
                 [&](int64_t i) { write(blocks_[i / inputs_], i % inputs_); });
  }

 private:
  void add_group(const LaneGroup& group) {
    const int L = table_.lanes;
    for (int i = 0; i < 3; ++i) axes_[i].lay_out(group.cuts[i], i == 2), y_axes_[i].lay_out(group.cuts[i], i == 2);
    tap_.clear(), cell_.clear();
    for (const Tap& d : axes_[0].phases[0].taps)
      for (const Tap& h : axes_[1].phases[0].taps)
        for (const Tap& w : axes_[2].phases[0].taps) {
          tap_.push_back(d.k * w_.stride[2] + h.k * w_.stride[3] + w.k * w_.stride[4]);
          cell_.push_back(((d.cell * axes_[1].cells() + h.cell) * axes_[2].cells() + w.cell) * L);
        }
    row_ = axes_[2].cells() * L;
    plane_ = row_ * axes_[1].cells();
    channel_ = plane_ * axes_[0].cells();
    const int64_t y_plane = axes_[1].sub * axes_[2].sub * L, y_channel = axes_[0].sub * y_plane;
    const int64_t x_size = g_.in_channels * channel_;
    const bool pack_early = inputs_at_once_ < inputs_;
    const int64_t y_size = pack_early ? y_channels_ * y_channel : 0;
    const int64_t blocks = group.blocks(L);
    const int64_t per_round = std::max<int64_t>(
        1, std::min<int64_t>(blocks, kPackedBytes / ((x_size + y_size) * static_cast<int64_t>(sizeof(T)))));
    Scratch<T> x(per_round * x_size), y(per_round * y_size);
    std::vector<std::vector<Unit>> units(per_round);
    for (int64_t first = 0; first < blocks; first += per_round) {
      const int64_t count = std::min(per_round, blocks - first), planes = axes_[0].cells();
      for (int64_t b = 0; b < count; ++b) units[b] = units_of_block(group, first + b, L, axes_);
      parallel_for(count * g_.in_channels * planes, [&](int64_t i) {
        const int64_t b = i / (g_.in_channels * planes), c = i / planes % g_.in_channels, d = i % planes;
        pack_plane(x_, axes_, units[b], c, d, x.get() + b * x_size + c * channel_ + d * plane_, int64_t(L));
      });
      const int64_t block_count = static_cast<int64_t>(blocks_.size());
      if (pack_early)
        parallel_for(count * block_count * axes_[0].sub, [&](int64_t i) {
          const int64_t b = i / (block_count * axes_[0].sub), d = i % axes_[0].sub;
          const ChannelBlock& block = blocks_[i / axes_[0].sub % block_count];
          pack_y(units[b], block, d, 0, axes_[1].sub,
                 y.get() + b * y_size + block.offset * y_channel + d * y_plane * block.tile);
        });
      const int64_t parts = inputs_ / inputs_at_once_;
      parallel_for(slabs_ * block_count * parts, [&](int64_t i) {
        const ChannelBlock& block = blocks_[i / parts % block_count];
        add_slab(x.get(), x_size, pack_early ? y.get() + block.offset * y_channel : nullptr, y_size, units, count,
                 i / (block_count * parts), block, i % parts * inputs_at_once_);
      });
    }
  }

  // Rows [h, h_end) of plane d of the channels of a block: (rows, W, channel, lane).
  void pack_y(const std::vector<Unit>& units, const ChannelBlock& block, int64_t d, int64_t h, int64_t h_end, T* dst) {
    const int L = table_.lanes;
    const int64_t stride = int64_t(L) * block.tile;
    for (int o = 0; o < block.tile; ++o)
      if (o < block.valid)
        pack_rows(y_, y_axes_, units, block.first + o, d, h, h_end, dst + o * L, stride);
      else
        for (int64_t v = 0; v < (h_end - h) * axes_[2].sub; ++v) std::fill_n(dst + v * stride + o * L, L, T(0));
  }

  T* sums_of(int64_t slab, const ChannelBlock& block, int64_t c) {
    return sums_.data() + slab * y_channels_ * inputs_ * taps_ + (block.offset * inputs_ + c * block.tile) * taps_;
  }

  // Adds slab `slab` of the lane blocks `units` to the sums (tap, channel) of a block and the input channels from c on.
  // y: packed channels of the block, or null.
  void add_slab(const T* x, int64_t x_size, const T* y, int64_t y_size, const std::vector<std::vector<Unit>>& units,
                int64_t count, int64_t slab, const ChannelBlock& block, int64_t c) {
    const int L = table_.lanes;
    const int64_t width = axes_[2].sub, height = axes_[1].sub, depth = axes_[0].sub;
    const int64_t y_row = width * block.tile * L;
    const int64_t rows =
        std::max<int64_t>(1, std::min<int64_t>(height, kRowBytes / (y_row * static_cast<int64_t>(sizeof(T)))));
    const int64_t chunks = (height + rows - 1) / rows, visits = count * depth * chunks;
    const int64_t begin = visits * slab / slabs_, end = visits * (slab + 1) / slabs_;
    if (begin == end) return;
    const int64_t widest = table_.max_positions[block.tile];
    const int64_t channel_sums = std::min(taps_, kTapsAtOnce) * block.tile * L;
    Scratch<T> lanes(inputs_at_once_ * channel_sums), own_rows(y ? 0 : rows * y_row);
    std::vector<TapOffset> needed;
    for (int64_t first = 0; first < taps_; first += kTapsAtOnce) {
      const int64_t taps = std::min(kTapsAtOnce, taps_ - first);
      std::fill_n(lanes.get(), inputs_at_once_ * channel_sums, T(0));
      for (int64_t v = begin; v < end; ++v) {
        const int64_t b = v / (depth * chunks), d = v / chunks % depth, h = v % chunks * rows;
        const int64_t height_here = std::min(rows, height - h);
        if (!y) pack_y(units[b], block, d, h, h + height_here, own_rows.get());
        const T* ys = y ? y + b * y_size + (d * height + h) * y_row : own_rows.get();
        const T* xs = x + b * x_size + (block.group * inputs_ + c) * channel_ + d * axes_[0].step * plane_ +
                      h * axes_[1].step * row_;
        list_taps(first, first + taps, d, h, h + height_here, int64_t(block.tile) * L, &needed);
        const int64_t count_needed = static_cast<int64_t>(needed.size()), calls = (count_needed + widest - 1) / widest;
        for (int64_t j = 0; j < inputs_at_once_; ++j)
          for (int64_t i = 0; i < calls; ++i) {  // tiles of nearly one size
            const int64_t from = count_needed * i / calls, some = count_needed * (i + 1) / calls - from;
            table_.weight_tile[block.tile][some](xs + j * channel_, axes_[1].step * row_, ys, y_row, height_here, width,
                                                 needed.data() + from, lanes.get() + j * channel_sums);
          }
      }
      for (int64_t j = 0; j < inputs_at_once_; ++j)
        table_.add_lanes(lanes.get() + j * channel_sums, taps * block.tile,
                         sums_of(slab, block, c + j) + first * block.tile);
    }
  }

  // The taps [first, last) that read x for output plane d and some row in [h, h_end).
  void list_taps(int64_t first, int64_t last, int64_t d, int64_t h, int64_t h_end, int64_t slot,
                 std::vector<TapOffset>* list) const {
    list->clear();
    const int64_t W = static_cast<int64_t>(axes_[2].phases[0].taps.size());
    int64_t t = 0;
    for (const Tap& kd : axes_[0].phases[0].taps)
      for (const Tap& kh : axes_[1].phases[0].taps) {
        if (kd.serves(d, d + 1) && kh.serves(h, h_end))
          for (int64_t k = std::max(t, first); k < std::min(t + W, last); ++k)
            list->push_back({cell_[k], (k - first) * slot});
        t += W;
      }
  }

  void write(const ChannelBlock& block, int64_t c) {
    for (int64_t o = 0; o < block.valid; ++o) {
      T* at = w_.data + (block.first + o) * w_.stride[0] + c * w_.stride[1];
      const T* from = sums_of(0, block, c) + o;
      const int64_t slab = y_channels_ * inputs_ * taps_;
      for (int64_t t = 0; t < taps_; ++t) {
        T sum = 0;
        for (int64_t s = 0; s < slabs_; ++s) sum += from[s * slab + t * block.tile];
        at[tap_[t]] = sum;
      }
    }
  }

  const View<const T> x_, y_;
  const View<T> w_;
  const ConvGeometry g_;
  Axes axes_, y_axes_;
  const ConvTable<T>& table_;
  std::vector<ChannelBlock> blocks_;
  std::vector<int64_t> tap_;   // of every tap, in elements of w
  std::vector<int64_t> cell_;  // of every tap, in elements of packed x
  std::vector<T> sums_;        // (slab, channel block, input channel, tap, channel)
  int64_t inputs_ = 0, inputs_at_once_ = 1, taps_ = 1, y_channels_ = 0, slabs_ = 1;
  int64_t row_ = 0, plane_ = 0, channel_ = 0;  // strides of packed x
};

}  // namespace

template <class T>
void conv_weight_batch(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  WeightSum<T>(x, y, w, g).run();
}

template void conv_weight_batch<float>(View<const float>, View<const float>, View<float>, const ConvGeometry&);
template void conv_weight_batch<double>(View<const double>, View<const double>, View<double>, const ConvGeometry&);

}  // namespace gk::cpu
