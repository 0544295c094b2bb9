// The weights gradient with the output channels in the vector lanes: for every tap a matrix product (input channels x
// positions) by (positions x output channels) that reads x in place, see conv_channels.cpp. A task owns the sums of a
// block of channels pairs and some taps, and adds all positions to them in order; the geometry alone fixes the tasks.
// Tiles want the rows of the one factor along the sum, which is why they multiply y, turned so, by x as it lies.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "bf16.hpp"
#include "channel_lanes.hpp"
#include "conv_paths.hpp"
#include "kernels.hpp"
#include "parallel.hpp"
#include "scratch.hpp"
#include "tiles.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kPackedBytes = int64_t(32) << 20;  // packed x and y held at a time, where one image is smaller
constexpr int64_t kPositions = 256;                  // of a pass over the sums: 48 KiB of y for 48 channels
constexpr int64_t kChained = 256;                    // weights of an output channel that are written at once
constexpr int64_t kTasks = 64;                       // wanted where there are fewer pairs of blocks

// E is what packed cells hold: numbers of T, or pairs of two images rounded to bfloat16, which then are one image.
template <class T, class E>
class ChannelWeightSum {
 public:
  ChannelWeightSum(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g)
      : x_(x),
        y_(y),
        w_(w),
        g_(g),
        inputs_(g.in_channels / g.groups),
        outputs_(g.out_channels / g.groups),
        axes_(gather_axes(g)),
        y_axes_(identity_axes(g)),
        images_((g.batch + kHalves - 1) / kHalves),
        table_(conv_table<T>()),
        tiles_(kHalves == 2 && g.y[2] >= TileTable::kLeastRun ? tile_table() : nullptr) {}

  void run() {
    if (w_.size() == 0) return;
    for (const Axis& a : axes_) taps_ *= a.phases.empty() ? 0 : static_cast<int64_t>(a.phases[0].taps.size());
    if (taps_ != g_.taps() || y_.size() == 0) fill<T>(w_, 0.0);
    if (taps_ == 0 || y_.size() == 0) return;
    for (int i = 0; i < 3; ++i) axes_[i].lay_out(1, false), y_axes_[i].lay_out(1, false);
    blocks_ = vector_blocks(outputs_, table_.lanes, table_.max_positions[table_.wide_outputs]);
    const ChannelCells x_cells(axes_, inputs_, g_.groups, table_.lanes, table_.lanes);
    const bool joined = x_cells.blocks == 1 && x_cells.width == inputs_ && consecutive_cells(axes_[2].phases[0]);
    list_taps(x_cells, joined);
    list_positions(x_cells);

    // rows of sums, and numbers after the last channel: a tile may be larger than what is left
    const int64_t most = tiles_ ? kTileColumns : ConvTable<T>::kMaxOutputs, padded = ceil_div(run_, most) * most;
    block_sums_ = x_cells.blocks * static_cast<int64_t>(taps_of_.size()) * padded;
    channels_ = blocks_.back().first + blocks_.back().vectors * table_.lanes;
    Scratch<T> sums(g_.groups * channels_ * block_sums_);
    parallel_chunks(g_.groups * channels_ * block_sums_, int64_t(1) << 18,
                    [&](int64_t begin, int64_t end) { std::fill(sums.get() + begin, sums.get() + end, T(0)); });
    const int64_t y_image = g_.groups * channels_ * g_.y_volume();
    const int64_t image_bytes = (x_cells.image + y_image) * static_cast<int64_t>(sizeof(E));
    const int64_t per_round = std::max<int64_t>(1, std::min(images_, kPackedBytes / image_bytes));
    Scratch<E> x(per_round * x_cells.image + most), y(per_round * y_image);
    std::fill_n(x.get() + per_round * x_cells.image, most, E(0));
    for (int64_t n = 0; n < images_; n += per_round) {
      const int64_t count = std::min(per_round, images_ - n);
      if constexpr (kHalves == 2)
        pack_image_pairs(x_, axes_, x_cells, 2 * n, count, x.get());
      else
        pack_channels(x_, axes_, x_cells, n, count, x.get());
      if (tiles_)
        pack_y_rows(n, count, y.get());
      else
        pack_y(n, count, y.get());
      add(x_cells, x.get(), y.get(), count, padded, sums.get());
    }
    if (tiles_) turn(x_cells, padded, sums.get());
    write(x_cells, sums.get(), padded, joined);
  }

 private:
  static constexpr int kHalves = std::is_same_v<E, Bf16Pair> ? 2 : 1;
  static constexpr int64_t kTileRows = TileTable::kMaxGroups * TileTable::kRows;
  static constexpr int64_t kTileColumns = TileTable::kMaxVectors * TileTable::kColumns;

  struct LineOfTaps {
    const Tap *d, *h;
    int64_t cell;   // of its first tap
    int64_t first;  // index of its first tap in the order (d, h, w) of the used taps
  };

  void list_taps(const ChannelCells& cells, bool joined) {
    const std::vector<Tap>& W = axes_[2].phases[0].taps;
    const int64_t line = joined ? static_cast<int64_t>(W.size()) : 1;
    run_ = line * cells.width;
    for (const Tap& d : axes_[0].phases[0].taps)
      for (const Tap& h : axes_[1].phases[0].taps)
        for (const Tap& w : W) {
          if (static_cast<int64_t>(offset_.size()) % line == 0)
            taps_of_.push_back({&d, &h, d.cell * cells.plane + h.cell * cells.row + w.cell * cells.width,
                                static_cast<int64_t>(offset_.size())});
          offset_.push_back(d.k * w_.stride[2] + h.k * w_.stride[3] + w.k * w_.stride[4]);
        }
  }

  // Positions of a plane of y: where they lie in a packed plane of y (in vectors of one block) and of x.
  void list_positions(const ChannelCells& cells) {
    for (int vectors = 1; vectors <= ConvTable<T>::kMaxVectors; ++vectors)
      for (int64_t h = 0; h < g_.y[1]; ++h)
        for (int64_t w = 0; w < g_.y[2]; ++w)
          positions_[vectors].push_back({(h * g_.y[2] + w) * vectors * table_.lanes,
                                         h * axes_[1].step * cells.row + w * axes_[2].step * cells.width});
  }

  // (group, block, image, position, vector of the block)
  void pack_y(int64_t first, int64_t count, E* dst) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size()), volume = g_.y_volume(), planes = g_.y[0];
    parallel_for(g_.groups * blocks * count * planes, [&](int64_t i) {
      const VectorBlock& block = blocks_[i / (count * planes) % blocks];
      const int64_t group = i / (count * planes * blocks), n = i / planes % count, d = i % planes;
      const int64_t width = block.vectors * table_.lanes;
      ChannelCells cells(y_axes_, block.valid, 1, width, 1);
      cells.width = width, cells.row = g_.y[2] * width, cells.plane = g_.y[1] * cells.row;
      View<const T> from = y_;
      from.data += (group * outputs_ + block.first) * y_.stride[1];
      E* to = dst + y_at(group, block, count) + n * volume * width + d * cells.plane;
      if constexpr (kHalves == 2)
        pack_image_pair(from, y_axes_, cells, 2 * (first + n), 0, 0, d, to);
      else
        pack_channels(from, y_axes_, cells, first + n, 0, 0, d, to);
    });
  }

  // (group, channel, image, position), in pairs of images
  void pack_y_rows(int64_t first, int64_t count, E* dst) const {
    if constexpr (kHalves == 2) {
      const int64_t D = g_.y[0], H = g_.y[1], W = g_.y[2];
      parallel_for(g_.groups * channels_ * count, [&](int64_t i) {
        const int64_t group = i / (channels_ * count), c = i / count % channels_, n = 2 * (first + i % count);
        E* to = dst + i * D * H * W;
        if (c >= outputs_) {
          std::fill_n(to, D * H * W, E(0));
          return;
        }
        const int64_t images = std::min<int64_t>(2, y_.shape[0] - n);
        Scratch<float> rows(2 * W);
        std::fill_n(rows.get(), 2 * W, 0.0f);
        for (int64_t row = 0; row < D * H; ++row, to += W) {
          for (int64_t m = 0; m < images; ++m) {
            const float* from = y_.data + (n + m) * y_.stride[0] + (group * outputs_ + c) * y_.stride[1] +
                                row / H * y_.stride[2] + row % H * y_.stride[3];
            for (int64_t w = 0; w < W; ++w) rows.get()[m * W + w] = from[w * y_.stride[4]];
          }
          bf16_table()->merge(rows.get(), rows.get() + W, W, to);
        }
      });
    }
  }

  int64_t y_at(int64_t group, const VectorBlock& block, int64_t images) const {
    return (group * channels_ + block.first) * images * g_.y_volume();
  }

  // Adds the packed images to the sums (group, block, input block, line of taps, row, vector of the block).
  void add(const ChannelCells& cells, const E* x, const E* y, int64_t images, int64_t padded, T* sums) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size()), lines = static_cast<int64_t>(taps_of_.size());
    const int64_t pairs = g_.groups * blocks * cells.blocks;
    const int64_t parts = std::min(lines, (kTasks + pairs - 1) / pairs);
    parallel_for(pairs * parts, [&](int64_t i) {
      const int64_t part = i % parts, b = i / parts % cells.blocks, group = i / (parts * cells.blocks * blocks);
      const VectorBlock& block = blocks_[i / (parts * cells.blocks) % blocks];
      const int64_t first = lines * part / parts, last = lines * (part + 1) / parts;
      const int64_t rows = cells.valid(b) * (run_ / cells.width);
      const E *from = x + group * cells.group + b * cells.block, *with = y + y_at(group, block, images);
      T* to = sums + sums_at(group, block, b, padded);
      if (tiles_)
        add_by_tiles(cells, from, with, images, block, first, last, rows, padded, to);
      else
        add_block(cells, from, with, images, block, first, last, rows, padded, to);
    });
  }

  int64_t sums_at(int64_t group, const VectorBlock& block, int64_t input_block, int64_t padded) const {
    return (group * channels_ + block.first) * block_sums_ +
           input_block * static_cast<int64_t>(taps_of_.size()) * padded * block.vectors * table_.lanes;
  }

  auto tiles(int outputs) const {
    if constexpr (kHalves == 2)
      return bf16_table()->tile[outputs];
    else
      return table_.tile[outputs];
  }

  // Lines [first, last) of taps, `rows` numbers of x each.
  void add_block(const ChannelCells& cells, const E* x, const E* y, int64_t images, const VectorBlock& block,
                 int64_t first, int64_t last, int64_t rows, int64_t padded, T* sums) const {
    const int64_t width = block.vectors * table_.lanes, H = g_.y[1], W = g_.y[2];
    const int64_t some_rows = std::max<int64_t>(1, std::min(H, kPositions / W));
    const int64_t some_images = std::max<int64_t>(1, std::min(images, kPositions / (H * W)));
    for (int64_t n = 0; n < images; n += some_images)
      for (int64_t d = 0; d < g_.y[0]; ++d)
        for (int64_t h = 0; h < H; h += some_rows)
          for (int64_t t = first; t < last; ++t) {
            const LineOfTaps& taps = taps_of_[t];
            if (!taps.d->serves(d, d + 1)) continue;
            const int64_t begin = std::max(h, taps.h->first);
            const int64_t end = std::min({H, h + some_rows, taps.h->last});
            if (begin >= end) continue;
            for (int64_t r = 0; r < rows;) {
              const int tile = tile_outputs(table_, std::min<int64_t>(rows - r, table_.wide_outputs));
              tiles(tile)[block.vectors](y + (n * g_.y[0] + d) * H * W * width, g_.y_volume() * width,
                                         x + n * cells.image + d * axes_[0].step * cells.plane + taps.cell + r,
                                         cells.image, std::min(some_images, images - n),
                                         positions_[block.vectors].data() + begin * W, (end - begin) * W,
                                         sums + (t * padded + r) * width, width, table_.lanes, true);
              r += tile;
            }
          }
  }

  // The same to sums (line of taps, channel of the block, row): a run is a row of positions, a tap one such row.
  void add_by_tiles(const ChannelCells& cells, const E* x, const E* y, int64_t images, const VectorBlock& block,
                    int64_t first, int64_t last, int64_t rows, int64_t padded, T* sums) const {
    if constexpr (kHalves == 2) {
      const int64_t width = block.vectors * table_.lanes, D = g_.y[0], H = g_.y[1], W = g_.y[2];
      const int64_t some_rows = std::max<int64_t>(1, std::min(H, kPositions / W));
      const int64_t some_images = std::max<int64_t>(1, std::min(images, kPositions / (H * W)));
      const int64_t channel = images * g_.y_volume();
      int64_t at[kTileRows], to[kTileRows];
      for (int64_t o = 0; o < kTileRows; ++o) at[o] = o * channel, to[o] = o * padded;
      std::vector<TapOffset> positions;
      TileScope scope;
      scope.shape_for(*tiles_, W);
      for (int64_t n = 0; n < images; n += some_images)
        for (int64_t d = 0; d < D; ++d)
          for (int64_t h = 0; h < H; h += some_rows)
            for (int64_t t = first; t < last; ++t) {
              const LineOfTaps& taps = taps_of_[t];
              if (!taps.d->serves(d, d + 1)) continue;
              positions.clear();
              for (int64_t m = n; m < std::min(images, n + some_images); ++m)
                for (int64_t i = std::max(h, taps.h->first); i < std::min({H, h + some_rows, taps.h->last}); ++i)
                  positions.push_back({(m * D + d) * H * W + i * W, m * cells.image + d * axes_[0].step * cells.plane +
                                                                        i * axes_[1].step * cells.row + taps.cell});
              if (positions.empty()) continue;
              for (int64_t o = 0; o < width; o += kTileRows)
                for (int64_t r = 0; r < rows; r += kTileColumns)
                  tiles_->tile[ceil_div(std::min(kTileRows, width - o), TileTable::kRows)]
                              [ceil_div(std::min(kTileColumns, rows - r), TileTable::kColumns)](
                                  y + o * channel, at, positions.data(), static_cast<int64_t>(positions.size()), W,
                                  x + r, axes_[2].step * cells.width, sums + (t * width + o) * padded + r, to, true);
            }
    }
  }

  // Sums of tiles become (line of taps, row, channel of the block).
  void turn(const ChannelCells& cells, int64_t padded, T* sums) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size()), lines = static_cast<int64_t>(taps_of_.size());
    parallel_for(g_.groups * blocks * cells.blocks * lines, [&](int64_t i) {
      const int64_t t = i % lines, b = i / lines % cells.blocks, group = i / (lines * cells.blocks * blocks);
      const VectorBlock& block = blocks_[i / (lines * cells.blocks) % blocks];
      const int64_t width = block.vectors * table_.lanes;
      T* line = sums + sums_at(group, block, b, padded) + t * padded * width;
      Scratch<T> copy(padded * width);
      std::copy_n(line, padded * width, copy.get());
      for (int64_t r = 0; r < padded; ++r)
        for (int64_t o = 0; o < width; ++o) line[r * width + o] = copy.get()[o * padded + r];
    });
  }

  void write(const ChannelCells& cells, const T* sums, int64_t padded, bool joined) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size()), L = table_.lanes;
    const int64_t line = joined ? static_cast<int64_t>(axes_[2].phases[0].taps.size()) : 1;
    bool dense = true;
    for (int64_t k = 0; k < taps_; ++k) dense = dense && offset_[k] == k;
    // where the taps of the next channel follow in memory, many channels are transposed at once
    const int64_t chained = dense && w_.stride[1] == taps_ ? std::max<int64_t>(1, kChained / taps_) : 1;
    parallel_for(g_.groups * blocks * cells.blocks, [&](int64_t i) {
      const int64_t b = i % cells.blocks, group = i / (cells.blocks * blocks), first = b * cells.width;
      const VectorBlock& block = blocks_[i / cells.blocks % blocks];
      const int64_t width = block.vectors * L, valid = cells.valid(b);
      const T* from = sums + sums_at(group, block, b, padded);
      std::vector<int64_t> at(taps_);  // of every tap, in vectors
      for (int64_t k = 0; k < taps_; ++k) at[k] = (k / line * padded + k % line * cells.width) * block.vectors;
      Scratch<T> kernel(chained * taps_ * L), plain(chained * taps_ * L);
      T* rows[64];
      for (int64_t v = 0; v < width; v += L)
        for (int64_t c = 0; c < valid; c += chained) {
          const int64_t some = std::min(chained, valid - c);
          for (int64_t j = 0; j < some; ++j)
            table_.pick_cells(from + (c + j) * width + v, at.data(), 0, at.back() + 1, taps_,
                              kernel.get() + j * taps_ * L, L);
          T* to = w_.data + (group * outputs_ + block.first + v) * w_.stride[0] + (first + c) * w_.stride[1];
          for (int64_t l = 0; l < L; ++l)
            rows[l] = dense && v + l < block.valid ? to + l * w_.stride[0] : plain.get() + l * some * taps_;
          table_.deinterleave(kernel.get(), L, some * taps_, rows);
          for (int64_t l = 0; !dense && l < std::min(L, block.valid - v); ++l)
            for (int64_t k = 0; k < taps_; ++k) to[l * w_.stride[0] + offset_[k]] = rows[l][k];
        }
    });
  }

  const View<const T> x_, y_;
  const View<T> w_;
  const ConvGeometry g_;
  const int64_t inputs_, outputs_;  // channels per group
  Axes axes_, y_axes_;
  const int64_t images_;
  const ConvTable<T>& table_;
  const TileTable* const tiles_;  // null where vectors compute
  std::vector<VectorBlock> blocks_;
  std::vector<LineOfTaps> taps_of_;
  std::vector<int64_t> offset_;  // of every used tap, in elements of w
  std::vector<TapOffset> positions_[ConvTable<T>::kMaxVectors + 1];
  int64_t taps_ = 1, run_ = 1;             // used taps; numbers of x that a line of taps reads at a position
  int64_t block_sums_ = 0, channels_ = 0;  // sums of an output channel; output channels of a group, padded
};

}  // namespace

template <class T>
void conv_weight_channels(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  ChannelWeightSum<T, T>(x, y, w, g).run();
}

void conv_weight_bf16(View<const float> x, View<const float> y, View<float> w, const ConvGeometry& g) {
  ChannelWeightSum<float, Bf16Pair>(x, y, w, g).run();
}

template void conv_weight_channels<float>(View<const float>, View<const float>, View<float>, const ConvGeometry&);
template void conv_weight_channels<double>(View<const double>, View<const double>, View<double>, const ConvGeometry&);

}  // namespace gk::cpu
