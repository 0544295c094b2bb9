// Convolution with the output channels in the vector lanes: a matrix product (positions x channels and taps) by
// (channels and taps x output channels) that reads its left side in place (indirect convolution, Dukhan,
// arXiv:1907.02129): cells hold blocks of channels, a tile is a few positions, and a tap is an offset common to all of
// them. The path of wide layers, and of small batches. Every output is a sum over (channel block, tap, channel) in that
// order, whatever the batch and the threads. Where few outputs would leave most lanes idle, N parts of that sum (the
// channels of one residue modulo N) lie side by side in a vector, and are added at the end: a step is N channels.
// conv and conv_transpose are the same gather, see lanes.hpp. Tiles of pairs take cells and weights as they are.
#include <algorithm>
#include <numeric>
#include <type_traits>
#include <vector>

#include "bf16.hpp"
#include "channel_lanes.hpp"
#include "conv_paths.hpp"
#include "kernels.hpp"
#include "parallel.hpp"
#include "prepared.hpp"
#include "scratch.hpp"
#include "tiles.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kPackedBytes = int64_t(32) << 20;  // packed images held at a time, where one image is smaller
constexpr int64_t kWeightBytes = 128 << 10;          // weights that the positions of a task share: in the second cache
constexpr int64_t kProducts = 256;          // products of a sum between two visits of its accumulator, at least
constexpr int64_t kRun = 64;                // channels of a cell, where there are so many
constexpr int64_t kPositions = 384;         // of a task: its sums take 72 KiB
constexpr int64_t kChannelsAtOnce = 8;      // of the weights that are turned into vectors, at least,
constexpr int64_t kTurnedBytes = 64 << 10;  // and as many as take this much
constexpr int64_t kTasks = 64;              // wanted where tasks would be larger than needed,
constexpr int64_t kFewTasks = 16;           // and where each reads more weights than this, from memory again:
constexpr int64_t kCachedBytes = 1 << 20;

// One combination of phases of the three axes.
struct PhaseTaps {
  const Phase* axis[3];
  std::vector<int64_t> cell;   // of every tap (of the first one of every run), in elements of a packed block
  std::vector<int64_t> index;  // of every tap, in row-major order of the kernel
  int64_t line = 1;            // taps in a run
  int64_t weights = 0;         // where its packed weights begin

  int64_t taps() const { return static_cast<int64_t>(index.size()); }
};

// Outputs [begin, end) of a phase, for every axis: what the positions of a tile cover.
struct Box {
  int64_t begin[3], end[3];
  bool operator==(const Box& o) const {
    return std::equal(begin, begin + 3, o.begin) && std::equal(end, end + 3, o.end);
  }
};

struct RowsOfTile {
  static constexpr int kMost = TileTable::kMaxGroups * TileTable::kRows;

  int64_t at[kMost], to[kMost];  // input cell and output cell of every position
  int64_t count;                 // of positions that are outputs
  Box box;
};

// E is what packed cells and weights hold: numbers of T, or pairs of channels rounded to bfloat16, which then are the
// channels of everything but the plain arrays.
template <class T, class E>
class ChannelConv {
 public:
  ChannelConv(View<const T> in, View<T> out, Weights<T> w, int64_t groups, Axes axes)
      : in_(in),
        out_(out),
        w_(w),
        groups_(groups),
        channels_(in.shape[1] / groups),
        inputs_((channels_ + kHalves - 1) / kHalves),
        outputs_(out.shape[1] / groups),
        axes_(std::move(axes)),
        table_(conv_table<T>()),
        parts_(lane_parts(table_, inputs_, outputs_)),
        tiles_(kHalves == 2 && parts_ == 1 ? tile_table() : nullptr),
        positions_(tiles_ ? TileTable::kMaxGroups * TileTable::kRows : table_.rows),
        blocks_(vector_blocks(outputs_, table_.lanes, tiles_ ? TileTable::kMaxVectors : ConvTable<T>::kMaxVectors)) {}

  void run() {
    if (out_.size() == 0) return;
    if (inputs_ == 0 || !every_output_served(axes_)) fill<T>(out_, 0.0);
    if (inputs_ == 0 || axes_[0].phases.empty() || axes_[1].phases.empty() || axes_[2].phases.empty()) return;
    int64_t taps = 1;
    for (Axis& a : axes_) {
      a.lay_out(1, false);
      taps *= static_cast<int64_t>(a.phases[0].taps.size());
    }
    const ChannelCells cells(axes_, inputs_, groups_, std::max(kProducts / taps, kRun), table_.lanes / kHalves, parts_);
    plan_phases(cells);
    const Prepared<E> weights(w_.data, packed_weights_, [&](E* to) { pack_weights(cells, to); });
    const int64_t image_bytes = cells.image * static_cast<int64_t>(sizeof(E));
    const int64_t per_round = std::max<int64_t>(1, std::min(in_.shape[0], kPackedBytes / image_bytes));
    Scratch<E> packed(per_round * cells.image);
    for (int64_t n = 0; n < in_.shape[0]; n += per_round) {
      const int64_t count = std::min(per_round, in_.shape[0] - n);
      if constexpr (kHalves == 2)
        pack_channel_pairs(in_, axes_, cells, n, count, packed.get());
      else
        pack_channels(in_, axes_, cells, n, count, packed.get());
      compute(cells, packed.get(), weights.get(), n, count);
    }
  }

 private:
  static constexpr int kHalves = std::is_same_v<E, Bf16Pair> ? 2 : 1;

  void plan_phases(const ChannelCells& cells) {
    for (const Phase& d : axes_[0].phases)
      for (const Phase& h : axes_[1].phases)
        for (const Phase& w : axes_[2].phases) {
          PhaseTaps phase{{&d, &h, &w}, {}, {}, 1, packed_weights_};
          if (cells.blocks == 1 && cells.width == steps(cells.channels) * parts_ && consecutive_cells(w))
            phase.line = static_cast<int64_t>(w.taps.size());
          for (const Tap& kd : d.taps)
            for (const Tap& kh : h.taps)
              for (const Tap& kw : w.taps) {
                if (phase.taps() % phase.line == 0)
                  phase.cell.push_back(kd.cell * cells.plane + kh.cell * cells.row + kw.cell * cells.width);
                phase.index.push_back(tap_index(kd.k, kh.k, kw.k));
              }
          packed_weights_ += groups_ * group_weights(phase);
          phases_.push_back(std::move(phase));
        }
  }

  int64_t tap_index(int64_t d, int64_t h, int64_t w) const { return (d * kernel(1) + h) * kernel(2) + w; }

  // Of a run of channels; blocks begin with a whole one.
  int64_t steps(int64_t channels) const { return (channels + parts_ - 1) / parts_; }

  // Extent of the kernel as far as any tap is used.
  int64_t kernel(int axis) const {
    int64_t n = 0;
    for (const Phase& p : axes_[axis].phases)
      for (const Tap& t : p.taps) n = std::max(n, t.k + 1);
    return n;
  }

  int64_t group_weights(const PhaseTaps& phase) const {
    const VectorBlock& last = blocks_.back();
    return (last.first + last.vectors * table_.lanes) * steps(inputs_) * phase.taps();
  }

  // (tap, step, vector) of one block of output channels and one block of input channels.
  int64_t weights_of(const PhaseTaps& phase, int64_t group, const VectorBlock& out, int64_t first_input) const {
    return phase.weights + group * group_weights(phase) +
           (out.first * steps(inputs_) + steps(first_input) * out.vectors * table_.lanes) * phase.taps();
  }

  void pack_weights(const ChannelCells& cells, E* dst) {
    const int64_t blocks = static_cast<int64_t>(blocks_.size()), L = table_.lanes;
    const int64_t KH = kernel(1), KW = kernel(2), all = kernel(0) * KH * KW;
    const bool dense =
        (KW == 1 || w_.tap[2] == 1) && (KH == 1 || w_.tap[1] == KW) && (kernel(0) == 1 || w_.tap[0] == KH * KW);
    parallel_for(groups_ * blocks * cells.blocks, [&](int64_t i) {
      const int64_t group = i / (blocks * cells.blocks), b = i % cells.blocks;
      const VectorBlock& out = blocks_[i / cells.blocks % blocks];
      const int64_t count = steps(cells.valid(b)), first = b * cells.width, step = out.vectors * L;
      const bool chained = dense && w_.input == all && parts_ == 1;  // the taps of the next step follow in memory
      const int64_t bytes = all * L * static_cast<int64_t>(sizeof(T));
      const int64_t at_once = std::min(count, std::max(kChannelsAtOnce, kTurnedBytes / bytes));
      Scratch<T> turned(at_once * kHalves * all * L), zeros(at_once * kHalves * all);
      std::fill_n(zeros.get(), at_once * kHalves * all, T(0));
      std::vector<int64_t> channel(at_once);  // (step) of the turned ones, in vectors
      for (int64_t j = 0; j < at_once; ++j) channel[j] = j * all;
      for (int64_t c = 0; c < count; c += at_once)
        for (int64_t v = 0; v < step; v += L) {
          const int64_t some = std::min(at_once, count - c), valid = std::min(L, out.valid - v);
          const int64_t input = (first + c * parts_) * kHalves, left = channels_ - input;
          const T* from = w_.data + group * w_.group + (out.first + v) * w_.output + input * w_.input;
          if (chained) {
            const int64_t all_taps = std::min(some * kHalves, left) * all;
            turn(from, valid, 1, all_taps, dense, KH, KW, zeros.get(), turned.get());
            std::fill(turned.get() + all_taps * L, turned.get() + some * kHalves * all * L, T(0));
          }
          for (int64_t j = 0; j < some * kHalves && !chained; ++j) {
            const int64_t ahead = j / kHalves * parts_ * kHalves + j % kHalves;
            turn(from + ahead * w_.input, valid, (left - ahead + kHalves - 1) / kHalves, all, dense, KH, KW,
                 zeros.get(), turned.get() + j * all * L);
          }
          for (const PhaseTaps& phase : phases_) {
            E* to = dst + weights_of(phase, group, out, first) + c * step + v;
            for (const int64_t k : phase.index) {
              const T* tap = turned.get() + k * L;
              if constexpr (kHalves == 2)
                for (int64_t j = 0; j < some; ++j)
                  bf16_table()->merge(tap + 2 * j * all * L, tap + (2 * j + 1) * all * L, L, to + j * step);
              else
                table_.pick_cells(tap, channel.data(), 0, at_once * all, some, to, step);
              to += count * step;
            }
          }
        }
    });
  }

  // Vectors of `valid` output channels (and of a step of up to `inputs` input channels) for `count` taps.
  void turn(const T* from, int64_t valid, int64_t inputs, int64_t count, bool dense, int64_t KH, int64_t KW,
            const T* zeros, T* dst) {
    const int64_t L = table_.lanes;
    int64_t at_lane[64];
    bool used[64];
    for (int64_t l = 0; l < L; ++l) {
      at_lane[l] = l / parts_ * w_.output + l % parts_ * kHalves * w_.input;
      used[l] = l / parts_ < valid && l % parts_ < inputs;
    }
    if (dense) {
      const T* rows[64];
      for (int64_t l = 0; l < L; ++l) rows[l] = used[l] ? from + at_lane[l] : zeros;
      return table_.interleave(rows, count, dst, L);
    }
    for (int64_t k = 0; k < count; ++k) {
      const T* at = from + k / (KH * KW) * w_.tap[0] + k / KW % KH * w_.tap[1] + k % KW * w_.tap[2];
      for (int64_t l = 0; l < L; ++l) dst[k * L + l] = used[l] ? at[at_lane[l]] : T(0);
    }
  }

  struct Task {
    const PhaseTaps* phase;  // and the phases of W after it
    int64_t group;
    const VectorBlock* block;
    int64_t first_row, last_row;  // (image, d, h) of the phase
  };

  int64_t row_phases() const { return static_cast<int64_t>(axes_[2].phases.size()); }

  void compute(const ChannelCells& cells, const E* x, const E* weights, int64_t first_image, int64_t count) {
    std::vector<Task> tasks;
    int64_t width = 0;  // outputs of a row
    for (const Phase& w : axes_[2].phases) width += w.outputs;
    const int64_t group = tiles_ ? TileTable::kRows : table_.rows;  // of positions, the least that is summed at once
    const int64_t whole_tiles = group / std::gcd(width, group);
    const int64_t pairs = static_cast<int64_t>(phases_.size() * blocks_.size()) / row_phases() * groups_;
    for (size_t p = 0; p < phases_.size(); p += static_cast<size_t>(row_phases())) {
      const PhaseTaps& phase = phases_[p];
      const int64_t rows = count * phase.axis[0]->outputs * phase.axis[1]->outputs;
      const int64_t bytes = group_weights(phase) * row_phases() * static_cast<int64_t>(sizeof(E));
      const bool large = bytes > kCachedBytes * static_cast<int64_t>(blocks_.size());
      const int64_t wanted = std::min(kPositions / width, rows * pairs / (large ? kFewTasks : kTasks));
      const int64_t step = std::max<int64_t>(wanted / whole_tiles * whole_tiles, width < kPositions ? whole_tiles : 1);
      for (int64_t r = 0; r < rows; r += step)
        for (int64_t g = 0; g < groups_; ++g)
          for (const VectorBlock& block : blocks_) tasks.push_back({&phase, g, &block, r, std::min(rows, r + step)});
    }
    parallel_for(static_cast<int64_t>(tasks.size()),
                 [&](int64_t i) { compute_rows(cells, x, weights, first_image, tasks[i]); });
  }

  void add_tile(const RowsOfTile& tile, int vectors, const E* x, const std::vector<TapOffset>& taps, int64_t run,
                const E* w, T* sums, bool accumulate) const {
    const int64_t count = static_cast<int64_t>(taps.size());
    if constexpr (kHalves == 2) {
      if (tiles_) {
        const int64_t groups = ceil_div(tile.count, TileTable::kRows);
        return tiles_->tile[groups][vectors](x, tile.at, taps.data(), count, run, w, vectors * table_.lanes, sums,
                                             tile.to, accumulate);
      }
      const auto add = parts_ > 1 ? bf16_table()->part_tile[parts_] : bf16_table()->row_tile[vectors];
      add(x, tile.at, taps.data(), count, run, w, sums, tile.to, accumulate);
    } else {
      const auto add = parts_ > 1 ? table_.part_tile[parts_] : table_.row_tile[vectors];
      add(x, tile.at, taps.data(), count, run, w, sums, tile.to, accumulate);
    }
  }

  void compute_rows(const ChannelCells& cells, const E* x, const E* weights, int64_t first_image, const Task& task) {
    const int64_t rows = task.last_row - task.first_row, step = task.block->vectors * table_.lanes;
    const int64_t line = axes_[2].out * step;
    Scratch<T> sums(rows * line + step);  // one cell more, for positions that a tile lacks
    if (row_phases() < std::min(task.phase->axis[2]->every, axes_[2].out)) std::fill_n(sums.get(), rows * line, T(0));
    TileScope scope;
    std::vector<RowsOfTile> tiles;
    std::vector<TapOffset> taps;
    for (int64_t i = 0; i < row_phases(); ++i) {
      const PhaseTaps& phase = task.phase[i];
      lay_tiles(cells, phase, task, rows * line, &tiles);
      const int64_t lines = static_cast<int64_t>(phase.cell.size());
      for (int64_t b = 0; b < cells.blocks; ++b) {
        const int64_t run = steps(cells.valid(b)) * phase.line, elements = run * step;
        const E* w = weights + weights_of(phase, task.group, *task.block, b * cells.width);
        if (tiles_) scope.shape_for(*tiles_, run);
        const int64_t at_once = std::max<int64_t>(1, kWeightBytes / (elements * static_cast<int64_t>(sizeof(E))));
        for (int64_t first = 0; first < lines; first += at_once) {
          const bool accumulate = b > 0 || first > 0;
          const Box* listed = nullptr;
          for (const RowsOfTile& tile : tiles) {
            if (!listed || !(*listed == tile.box))
              list_taps(phase, tile.box, first, std::min(lines, first + at_once), elements, &taps);
            listed = &tile.box;
            if (taps.empty() && accumulate) continue;
            add_tile(tile, task.block->vectors, x + task.group * cells.group + b * cells.block, taps, run, w,
                     sums.get(), accumulate);
          }
        }
      }
    }
    store(sums.get(), task, first_image);
  }

  void lay_tiles(const ChannelCells& cells, const PhaseTaps& phase, const Task& task, int64_t spare,
                 std::vector<RowsOfTile>* tiles) const {
    const Phase &pd = *phase.axis[0], &ph = *phase.axis[1], &pw = *phase.axis[2];
    const int64_t step = task.block->vectors * table_.lanes, line = axes_[2].out * step, R = positions_;
    const int64_t count = (task.last_row - task.first_row) * pw.outputs;
    tiles->resize((count + R - 1) / R);
    int64_t row = task.first_row, w = 0;  // of the next position
    int64_t at = 0, to = 0;               // of its row
    const auto start_row = [&] {
      const int64_t n = row / (pd.outputs * ph.outputs), d = row / ph.outputs % pd.outputs, h = row % ph.outputs;
      at = n * cells.image + d * axes_[0].step * cells.plane + h * axes_[1].step * cells.row;
      to = (row - task.first_row) * line + pw.first * step;
    };
    start_row();
    for (int64_t p = 0; p < count; p += R) {
      RowsOfTile& tile = (*tiles)[p / R];
      const int64_t last = std::min(R, count - p);
      tile.count = last;
      tile.box = box_of(pd, ph, pw, row * pw.outputs + w, row * pw.outputs + w + last - 1);
      if (phase.line > 1) tile.box.begin[2] = 0, tile.box.end[2] = pw.outputs;  // runs are always whole
      for (int64_t r = 0; r < R; ++r) {
        if (r >= last) {
          tile.at[r] = tile.at[0], tile.to[r] = spare;
          continue;
        }
        tile.at[r] = at + w * axes_[2].step * cells.width, tile.to[r] = to + w * pw.every * step;
        if (++w == pw.outputs && ++row < task.last_row) w = 0, start_row();
      }
    }
  }

  // Of positions p to q in the order (image, d, h, w); whole axes where they wrap.
  static Box box_of(const Phase& d, const Phase& h, const Phase& w, int64_t p, int64_t q) {
    Box box{{0, 0, 0}, {d.outputs, h.outputs, w.outputs}};
    const Phase* axis[3] = {&d, &h, &w};
    for (int i = 0; i < 3; ++i) {
      int64_t inner = 1;
      for (int j = i + 1; j < 3; ++j) inner *= axis[j]->outputs;
      if (p / inner / axis[i]->outputs != q / inner / axis[i]->outputs) continue;
      box.begin[i] = p / inner % axis[i]->outputs, box.end[i] = q / inner % axis[i]->outputs + 1;
    }
    return box;
  }

  // The runs [first, last) that read the input for some output of the box: padding is not multiplied.
  static void list_taps(const PhaseTaps& phase, const Box& box, int64_t first, int64_t last, int64_t elements,
                        std::vector<TapOffset>* list) {
    list->clear();
    int64_t t = 0;
    for (const Tap& kd : phase.axis[0]->taps) {
      const bool in_d = kd.serves(box.begin[0], box.end[0]);
      for (const Tap& kh : phase.axis[1]->taps) {
        const bool served = in_d && kh.serves(box.begin[1], box.end[1]);
        const int64_t lines = static_cast<int64_t>(phase.axis[2]->taps.size()) / phase.line;
        for (int64_t k = 0; k < lines; ++k, ++t) {
          if (!served || t < first || t >= last) continue;
          if (phase.line > 1 || phase.axis[2]->taps[k].serves(box.begin[2], box.end[2]))
            list->push_back({phase.cell[t], t * elements});
        }
      }
    }
  }

  // The sums (row, W, channel) to the rows of the output.
  void store(const T* sums, const Task& task, int64_t first_image) const {
    const Phase &pd = *task.phase->axis[0], &ph = *task.phase->axis[1];
    const int64_t width = axes_[2].out, L = table_.lanes, step = task.block->vectors * L;
    const bool direct = out_.stride[4] == 1 || width == 1;
    const bool joined = direct && ph.every == 1 && out_.stride[3] == width;
    Scratch<T> spare((joined ? task.last_row - task.first_row : 1) * width * L);
    T* rows[64];
    for (int64_t row = task.first_row, many; row < task.last_row; row += many, sums += many * width * step) {
      const int64_t n = row / (pd.outputs * ph.outputs), d = row / ph.outputs % pd.outputs, h = row % ph.outputs;
      many = joined ? std::min(task.last_row - row, ph.outputs - h) : 1;
      T* to = out_.data + (first_image + n) * out_.stride[0] +
              (task.group * outputs_ + task.block->first) * out_.stride[1] +
              (pd.first + d * pd.every) * out_.stride[2] + (ph.first + h * ph.every) * out_.stride[3];
      for (int64_t v = 0; v < step; v += L) {
        const int64_t count = many * width, valid = std::min(L, task.block->valid - v);
        for (int64_t l = 0; l < L; ++l)
          rows[l] = direct && parts_ == 1 && l < valid ? to + (v + l) * out_.stride[1] : spare.get() + l * count;
        table_.deinterleave(sums + v, step, count, rows);
        if (parts_ > 1) {
          add_parts(rows, valid, count, to, direct ? 1 : out_.stride[4]);
          continue;
        }
        for (int64_t l = 0; !direct && l < valid; ++l)
          for (int64_t i = 0; i < width; ++i) to[(v + l) * out_.stride[1] + i * out_.stride[4]] = rows[l][i];
      }
    }
  }

  void add_parts(T* const* rows, int64_t outputs, int64_t count, T* to, int64_t stride) const {
    for (int64_t o = 0; o < outputs; ++o, to += out_.stride[1]) {
      T* const* part = rows + o * parts_;
      for (int64_t i = 0; i < count && parts_ == 2; ++i) to[i * stride] = part[0][i] + part[1][i];
      for (int64_t i = 0; i < count && parts_ == 4; ++i)
        to[i * stride] = (part[0][i] + part[1][i]) + (part[2][i] + part[3][i]);
    }
  }

  const View<const T> in_;
  const View<T> out_;
  const Weights<T> w_;
  const int64_t groups_, channels_, inputs_, outputs_;  // channels per group; inputs in numbers of E
  Axes axes_;
  const ConvTable<T>& table_;
  const int parts_;
  const TileTable* const tiles_;  // null where vectors compute
  const int64_t positions_;       // of a tile
  const std::vector<VectorBlock> blocks_;
  std::vector<PhaseTaps> phases_;
  int64_t packed_weights_ = 0;
};

}  // namespace

template <class T>
void conv_channels(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  ChannelConv<T, T>(x, y, conv_weights(w, g), g.groups, gather_axes(g)).run();
}

template <class T>
void conv_transpose_channels(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  ChannelConv<T, T>(y, x, conv_transpose_weights(w, g), g.groups, transposed_gather_axes(g)).run();
}

void conv_bf16(View<const float> x, View<const float> w, View<float> y, const ConvGeometry& g) {
  ChannelConv<float, Bf16Pair>(x, y, conv_weights(w, g), g.groups, gather_axes(g)).run();
}

void conv_transpose_bf16(View<const float> y, View<const float> w, View<float> x, const ConvGeometry& g) {
  ChannelConv<float, Bf16Pair>(y, x, conv_transpose_weights(w, g), g.groups, transposed_gather_axes(g)).run();
}

#define GK_INSTANTIATE(T)                                                                     \
  template void conv_channels<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void conv_transpose_channels<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
