// Direct convolution with the places of one image in the vector lanes, for few images and short sums. The padded rows
// of a plane follow each other in memory, so a tap is one distance for all of a plane: vectors run over the places
// without regard to the ends of rows, and what they sum between two rows is not kept. Nothing is transposed. The order
// of a sum, (input channel, tap), is that of the batch path, and so are its bits.
#include <algorithm>
#include <vector>

#include "conv_paths.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "prepared.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kPackedBytes = int64_t(4) << 20;  // packed input held at a time: what the caches hold
constexpr int64_t kLeastCycles = 10000;             // a task takes about 3 microseconds at least,
constexpr int64_t kTaskCycles = 120000;             // 30 where there is work for
constexpr int64_t kTasks = 16;                      // so many
constexpr int64_t kStoreCycles = 4;                 // of a vector of outputs: epilogue and copy
constexpr int64_t kInlineCells = 1 << 15;           // packed by the calling thread alone: waking another takes longer

// Outputs [low, high) of each axis.
struct Box {
  int64_t low[3], high[3];

  int64_t extent(int i) const { return high[i] - low[i]; }
};

template <class T>
class RowConv {
 public:
  RowConv(View<const T> in, View<T> out, Weights<T> w, int64_t groups, Axes axes, const Finish<T>& finish)
      : in_(in),
        out_(out),
        w_(w),
        groups_(groups),
        inputs_(in.shape[1] / groups),
        outputs_(out.shape[1] / groups),
        axes_(std::move(axes)),
        finish_(finish),
        table_(conv_table<T>()),
        blocks_(channel_blocks(table_, outputs_)) {
    for (Axis& a : axes_) a.lay_out(1, true);
    row_ = axes_[2].cells();
    plane_ = row_ * axes_[1].cells();
    channel_ = plane_ * axes_[0].cells();
  }

  void run() {
    const ChannelBlock& last = blocks_.back();
    group_weights_ = (last.first + last.tile) * inputs_ * taps();
    const Prepared<T> weights(w_.data, groups_ * group_weights_, [&](T* to) { pack_weights(to); });
    weights_ = weights.get();
    const int64_t channels = in_.shape[1], image = channels * channel_, images = in_.shape[0];
    const int64_t round = std::clamp<int64_t>(kPackedBytes / (image * static_cast<int64_t>(sizeof(T))), 1, images);
    // The last vectors of a channel read beyond it.
    const int64_t beyond = table_.lanes;
    Scratch<T> packed(round * image + beyond);
    std::fill_n(packed.get() + round * image, beyond, T(0));
    for (int64_t first = 0; first < images; first += round) {
      const int64_t count = std::min(round, images - first), planes = axes_[0].cells();
      {
        const Inline few(count * image <= kInlineCells);
        parallel_for(count * channels * planes, [&](int64_t i) {
          const int64_t n = i / (channels * planes), c = i / planes % channels, d = i % planes;
          pack_plane(first + n, c, d, packed.get() + n * image + c * channel_ + d * plane_);
        });
      }
      compute(packed.get(), image, first, count);
    }
  }

 private:
  const std::vector<Tap>& taps(int axis) const { return axes_[axis].phases[0].taps; }
  int64_t taps() const { return static_cast<int64_t>(taps(0).size() * taps(1).size() * taps(2).size()); }

  void pack_weights(T* to) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size());
    parallel_for(groups_ * blocks, [&](int64_t i) {
      const ChannelBlock& block = blocks_[i % blocks];
      pack_block(w_, i / blocks, block, inputs_, taps(0), taps(1), taps(2), to + weights_of(i / blocks, block));
    });
  }

  int64_t weights_of(int64_t group, const ChannelBlock& block) const {
    return group * group_weights_ + block.first * inputs_ * taps();
  }

  // Plane d of the packed channel c of an image: zeros where it reads padding.
  void pack_plane(int64_t n, int64_t c, int64_t d, T* to) const {
    const Axis &ad = axes_[0], &ah = axes_[1], &aw = axes_[2];
    const int64_t at_d = ad.cell_at[d];
    if (at_d < 0 || at_d >= ad.in) {
      std::fill_n(to, plane_, T(0));
      return;
    }
    const T* from = in_.data + n * in_.stride[0] + c * in_.stride[1] + at_d * in_.stride[2];
    const bool straight = in_.stride[4] == 1 && aw.run == row_;
    const int64_t low = straight ? std::clamp<int64_t>(-aw.cell_at[0], 0, row_) : 0;
    const int64_t high = straight ? std::clamp<int64_t>(aw.in - aw.cell_at[0], low, row_) : row_;
    for (int64_t h = 0; h < ah.cells(); ++h, to += row_) {
      const int64_t at_h = ah.cell_at[h];
      if (at_h < 0 || at_h >= ah.in) {
        std::fill_n(to, row_, T(0));
        continue;
      }
      const T* row = from + at_h * in_.stride[3];
      if (straight) {
        std::fill_n(to, low, T(0));
        table_.copy_rows(row + low + aw.cell_at[0], 0, 1, high - low, to + low, 0);
        std::fill_n(to + high, row_ - high, T(0));
      } else {
        copy_cells(row, in_.stride[4], aw, 0, to);
      }
    }
  }

  void compute(const T* packed, int64_t image, int64_t first, int64_t count) {
    struct Task {
      int64_t image, group;
      const ChannelBlock* block;
      Box box;
    };
    const int64_t D = axes_[0].out, H = axes_[1].out, W = axes_[2].out, L = table_.lanes;
    const auto cycles = [&](int64_t places) {  // of a widest block of channels
      return std::max<int64_t>(1, places * (inputs_ * taps() / 2 + kStoreCycles) * blocks_[0].tile / L);
    };
    const int64_t all = count * groups_ * static_cast<int64_t>(blocks_.size()) * D * cycles(H * row_);
    const int64_t wanted = std::clamp(all / kTasks, kLeastCycles, kTaskCycles);
    // Planes if they are small, else rows of one, or pieces of the only row.
    const int64_t planes = std::min(D, 1 + wanted / cycles(H * row_)), rows = std::min(H, 1 + wanted / cycles(row_));
    const int64_t row = H > 1 ? W : std::min(W, (1 + wanted / cycles(L)) * L);
    std::vector<Task> tasks;
    for (int64_t n = 0; n < count; ++n)
      for (int64_t g = 0; g < groups_; ++g)
        for (int64_t d = 0; d < D; d += planes)
          for (int64_t h = 0; h < H; h += rows)
            for (int64_t w = 0; w < W; w += row)
              for (const ChannelBlock& block : blocks_)
                tasks.push_back({n,
                                 g,
                                 &block,
                                 {{d, h, w}, {std::min(D, d + planes), std::min(H, h + rows), std::min(W, w + row)}}});
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& t = tasks[i];
      compute_box(packed + t.image * image + t.group * inputs_ * channel_, first + t.image, t.group, *t.block, t.box);
    });
  }

  // One block of output channels of one image.
  void compute_box(const T* in, int64_t image, int64_t group, const ChannelBlock& block, const Box& box) {
    const int64_t L = table_.lanes, first = box.low[1] * row_ + box.low[2];
    const int64_t vectors = ((box.extent(1) - 1) * row_ + box.extent(2) + L - 1) / L;
    const int64_t widest = table_.max_positions[block.tile], tiles = (vectors + widest - 1) / widest;
    const T* weights = weights_ + weights_of(group, block);
    Scratch<T> lines(block.tile * vectors * L);
    std::vector<TapOffset> list;
    std::vector<int64_t> listed{-1}, planes;  // taps of D: of the list, and those that this plane needs
    for (int64_t d = box.low[0]; d < box.high[0]; ++d) {
      planes.clear();
      for (size_t k = 0; k < taps(0).size(); ++k)
        if (taps(0)[k].serves(d, d + 1)) planes.push_back(static_cast<int64_t>(k));
      if (planes != listed) list_taps(planes, box, block.tile, &list), listed = planes;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t from = vectors * i / tiles, positions = vectors * (i + 1) / tiles - from;
        table_.tile[block.tile][positions](in + d * plane_ + first + from * L, channel_, weights, taps() * block.tile,
                                           inputs_, list.data(), static_cast<int64_t>(list.size()),
                                           lines.get() + from * L, vectors * L, L, false);
      }
      for (int64_t o = 0; o < block.valid; ++o) {
        const int64_t channel = group * outputs_ + block.first + o;
        T* line = lines.get() + o * vectors * L;
        finish_(line, vectors * L, channel);
        store(line, image, channel, d, box);
      }
    }
  }

  // The taps that read the input somewhere in the box, by plane.
  void list_taps(const std::vector<int64_t>& planes, const Box& box, int64_t tile, std::vector<TapOffset>* list) const {
    const std::vector<Tap>&D = taps(0), &H = taps(1), &W = taps(2);
    list->clear();
    for (const int64_t i : planes)
      for (size_t j = 0; j < H.size(); ++j)
        for (size_t k = 0; H[j].serves(box.low[1], box.high[1]) && k < W.size(); ++k) {
          const int64_t at =
              (i * static_cast<int64_t>(H.size()) + static_cast<int64_t>(j)) * static_cast<int64_t>(W.size()) +
              static_cast<int64_t>(k);
          list->push_back({D[i].cell * plane_ + H[j].cell * row_ + W[k].cell, at * tile});
        }
  }

  void store(const T* line, int64_t image, int64_t channel, int64_t d, const Box& box) const {
    T* to = out_.data + image * out_.stride[0] + channel * out_.stride[1] + d * out_.stride[2] +
            box.low[1] * out_.stride[3] + box.low[2] * out_.stride[4];
    if (out_.stride[4] == 1) return table_.copy_rows(line, row_, box.extent(1), box.extent(2), to, out_.stride[3]);
    for (int64_t h = 0; h < box.extent(1); ++h)
      for (int64_t w = 0; w < box.extent(2); ++w) to[h * out_.stride[3] + w * out_.stride[4]] = line[h * row_ + w];
  }

  const View<const T> in_;
  const View<T> out_;
  const Weights<T> w_;
  const int64_t groups_, inputs_, outputs_;  // channels per group
  Axes axes_;
  const Finish<T> finish_;
  const ConvTable<T>& table_;
  const std::vector<ChannelBlock> blocks_;
  int64_t group_weights_ = 0;
  const T* weights_ = nullptr;                 // packed
  int64_t row_ = 0, plane_ = 0, channel_ = 0;  // strides of the packed input
};

}  // namespace

template <class T>
void conv_rows(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Finish<T>& finish) {
  RowConv<T>(x, y, conv_weights(w, g), g.groups, gather_axes(g), finish).run();
}

template <class T>
void conv_transpose_rows(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, const Finish<T>& finish) {
  RowConv<T>(y, x, conv_transpose_weights(w, g), g.groups, transposed_gather_axes(g), finish).run();
}

#define GK_INSTANTIATE(T)                                                                                   \
  template void conv_rows<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Finish<T>&); \
  template void conv_transpose_rows<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Finish<T>&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
