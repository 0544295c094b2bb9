// Direct convolution with the batch in the vector lanes (Georganas et al., SC18, arXiv:1808.05567, block over channels;
// here channels are few and images many). Every output vector is a sum over (input channel, tap) in that order,
// whatever the batch, the lanes and the threads. conv and conv_transpose are the same gather, see lanes.hpp.
#include <algorithm>
#include <limits>
#include <vector>

#include "conv_paths.hpp"
#include "kernels.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "prepared.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

// Packed input held at a time: what the caches hold, but two blocks, for two threads, if each is below the second.
constexpr int64_t kPackedBytes = int64_t(4) << 20, kPairedBytes = int64_t(8) << 20;
constexpr int64_t kLeastCycles = 20000;      // rows are joined into tasks of about 5 microseconds at least,
constexpr int64_t kTaskCycles = 120000;      // of 30 where there is work for
constexpr int64_t kTasks = 16;               // so many
constexpr int64_t kStoreCycles = 6;          // of a vector of outputs: epilogue, transposition, store
constexpr int64_t kWindowBytes = 512 << 10;  // input that the rows of a task share: half a second-level cache
constexpr int64_t kSharingRows = 8;          // rows of a task where the window of all channels is larger

// How tiles of `outputs` channels cut a row of outputs, so that they multiply the least padding.
struct RowTiles {
  struct Tile {
    int64_t first, positions;
    size_t taps;
  };

  int64_t outputs;
  std::vector<Tile> tiles;
  std::vector<std::vector<int64_t>> taps;  // distinct sets of taps of W: a tile needs those that read the input for it

  RowTiles(const Phase& w, int64_t width, int64_t outputs, int64_t widest) : outputs(outputs) {
    const auto serves = [&](size_t k, int64_t first, int64_t last) { return w.taps[k].serves(first, last); };
    // last[i]: positions of the tile that ends before i; nearly equal tiles in rows so wide that padding is little
    std::vector<int64_t> last(width + 1);
    if (width <= kPlanned) {
      std::vector<int64_t> least(width + 1, std::numeric_limits<int64_t>::max());  // cycles of the positions before i
      least[0] = 0;
      for (int64_t i = 1; i <= width; ++i)
        for (int64_t p = 1; p <= std::min(i, widest); ++p) {
          int64_t cost = least[i - p] + kTileVisit;
          for (size_t k = 0; k < w.taps.size(); ++k) cost += serves(k, i - p, i) ? cycles(p) : 0;
          if (cost <= least[i]) least[i] = cost, last[i] = p;
        }
    } else {
      const int64_t count = (width + widest - 1) / widest;
      for (int64_t i = 0; i < count; ++i) last[width * (i + 1) / count] = width * (i + 1) / count - width * i / count;
    }
    std::vector<int64_t> needed;
    for (int64_t i = width; i > 0; i -= last[i]) {
      needed.clear();
      for (size_t k = 0; k < w.taps.size(); ++k)
        if (serves(k, i - last[i], i)) needed.push_back(static_cast<int64_t>(k));
      const size_t at = static_cast<size_t>(std::find(taps.begin(), taps.end(), needed) - taps.begin());
      if (at == taps.size()) taps.push_back(needed);
      tiles.push_back({i - last[i], last[i], at});
    }
    std::reverse(tiles.begin(), tiles.end());
  }

 private:
  static constexpr int64_t kTileVisit = 4, kPlanned = 64;

  // Half cycles of one tap: two multiply-adds or two loads start in a cycle, and a sum waits four for the one before.
  int64_t cycles(int64_t positions) const { return std::max({outputs * positions, outputs + positions, int64_t{8}}); }
};

// One combination of phases of the three axes: a dense convolution with the taps it needs. Those that differ in the
// phase of W only follow each other and fill whole rows of the output together.
struct DensePhase {
  const Phase* axis[3];
  int64_t outputs[3];           // of one sub-volume
  std::vector<int64_t> cell;    // of every tap, in elements of the packed input
  int64_t weights;              // where its packed weights begin
  std::vector<RowTiles> tiles;  // for every number of output channels that a tile has

  int64_t taps() const { return static_cast<int64_t>(cell.size()); }
};

// The taps that read the input somewhere on a row of outputs, for every set of taps of W: padding is not multiplied.
// Rows in the middle of the volume need the same lines of taps, so the lists are kept until those change.
class RowTaps {
 public:
  RowTaps(const DensePhase& phase, const RowTiles& tiles) : phase_(phase), tiles_(tiles), lists_(tiles.taps.size()) {}

  const std::vector<RowTiles::Tile>& tiles() const { return tiles_.tiles; }
  const std::vector<TapOffset>& list(const RowTiles::Tile& tile) const { return lists_[tile.taps]; }

  void move_to(int64_t d, int64_t h) {
    const std::vector<Tap>&D = phase_.axis[0]->taps, &H = phase_.axis[1]->taps;
    lines_.clear();
    for (size_t i = 0; i < D.size(); ++i)
      for (size_t j = 0; D[i].serves(d, d + 1) && j < H.size(); ++j)
        if (H[j].serves(h, h + 1)) lines_.push_back(static_cast<int64_t>(i * H.size() + j));
    if (lines_ == listed_) return;
    listed_ = lines_;
    const int64_t width = static_cast<int64_t>(phase_.axis[2]->taps.size());
    for (size_t i = 0; i < lists_.size(); ++i) {
      const std::vector<int64_t>& taps = tiles_.taps[i];
      lists_[i].resize(lines_.size() * taps.size());
      TapOffset* tap = lists_[i].data();
      for (const int64_t line : lines_)
        for (const int64_t k : taps) {
          const int64_t at = line * width + k;
          *tap++ = {phase_.cell[at], at * tiles_.outputs};
        }
    }
  }

 private:
  const DensePhase& phase_;
  const RowTiles& tiles_;
  std::vector<std::vector<TapOffset>> lists_;
  std::vector<int64_t> lines_, listed_{-1};  // (d, h) pairs of taps: needed now, and those that are listed
};

template <class T>
class GatherConv {
 public:
  GatherConv(View<const T> in, View<T> out, Weights<T> w, int64_t groups, Axes axes, const Finish<T>& finish)
      : in_(in),
        out_(out),
        w_(w),
        groups_(groups),
        inputs_(in.shape[1] / groups),
        outputs_(out.shape[1] / groups),
        axes_(std::move(axes)),
        finish_(finish),
        table_(conv_table<T>()),
        blocks_(channel_blocks(table_, outputs_)) {}

  void run() {
    if (out_.size() == 0) return;
    if (inputs_ == 0 || !every_output_served(axes_)) fill_unserved();
    if (inputs_ == 0 || axes_[0].phases.empty() || axes_[1].phases.empty() || axes_[2].phases.empty()) return;
    for (const ChannelBlock& b : blocks_)
      if (sizes_.empty() || sizes_.back() != b.tile) sizes_.push_back(b.tile);
    int64_t taps = 1;
    for (const Axis& a : axes_) taps *= static_cast<int64_t>(a.phases[0].taps.size());
    const double work = 0.05 * static_cast<double>(taps) * static_cast<double>(outputs_);
    for (const LaneGroup& group : lane_groups(in_.shape[0], table_.lanes, axes_, work)) run_group(group);
  }

 private:
  // Everything as where nothing is summed.
  void fill_unserved() {
    View<T> channel = out_;
    channel.shape[1] = 1;
    for (int64_t c = 0; c < out_.shape[1]; ++c, channel.data += out_.stride[1]) {
      T value = 0;
      finish_(&value, 1, c);
      fill<T>(channel, static_cast<double>(value));
    }
  }

  void run_group(const LaneGroup& group) {
    for (int i = 0; i < 3; ++i) axes_[i].lay_out(group.cuts[i], i == 2);
    const Prepared<T> weights(w_.data, plan_phases(), [&](T* to) { pack_weights(to); });
    packed_weights_ = weights.get();
    const int L = table_.lanes;
    row_ = axes_[2].cells() * L;
    plane_ = row_ * axes_[1].cells();
    channel_ = plane_ * axes_[0].cells();
    const int64_t channels = in_.shape[1], blocks = group.blocks(L), block_size = channels * channel_;
    const int64_t bytes = block_size * static_cast<int64_t>(sizeof(T));
    const int64_t per_round =
        std::min<int64_t>(blocks, std::max<int64_t>(kPackedBytes / bytes, bytes <= kPairedBytes ? 2 : 1));
    Scratch<T> packed(per_round * block_size);
    std::vector<std::vector<Unit>> units(per_round);
    for (int64_t first = 0; first < blocks; first += per_round) {
      const int64_t count = std::min(per_round, blocks - first), planes = axes_[0].cells();
      for (int64_t b = 0; b < count; ++b) units[b] = units_of_block(group, first + b, L, axes_);
      parallel_for(count * channels * planes, [&](int64_t i) {
        const int64_t b = i / (channels * planes), c = i / planes % channels, d = i % planes;
        pack_plane(in_, axes_, units[b], c, d, packed.get() + b * block_size + c * channel_ + d * plane_, int64_t(L));
      });
      compute(packed.get(), block_size, units, count);
    }
  }

  // Returns the number of packed weights.
  int64_t plan_phases() {
    phases_.clear();
    int64_t weights = 0;
    const int L = table_.lanes;
    for (const Phase& d : axes_[0].phases)
      for (const Phase& h : axes_[1].phases)
        for (const Phase& w : axes_[2].phases) {
          DensePhase phase{{&d, &h, &w}, {}, {}, weights, {}};
          for (int i = 0; i < 3; ++i) phase.outputs[i] = std::min(axes_[i].sub, phase.axis[i]->outputs);
          for (const int tile : sizes_) phase.tiles.emplace_back(w, phase.outputs[2], tile, table_.max_positions[tile]);
          for (const Tap& kd : d.taps)
            for (const Tap& kh : h.taps)
              for (const Tap& kw : w.taps)
                phase.cell.push_back(((kd.cell * axes_[1].cells() + kh.cell) * axes_[2].cells() + kw.cell) * L);
          weights += groups_ * group_weights(phase);
          phases_.push_back(std::move(phase));
        }
    return weights;
  }

  void pack_weights(T* dst) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size());
    parallel_for(static_cast<int64_t>(phases_.size()) * groups_ * blocks, [&](int64_t i) {
      const DensePhase& phase = phases_[i / (groups_ * blocks)];
      const int64_t group = i / blocks % groups_;
      const ChannelBlock& block = blocks_[i % blocks];
      pack_block(w_, group, block, inputs_, phase.axis[0]->taps, phase.axis[1]->taps, phase.axis[2]->taps,
                 dst + weights_of(phase, group, block));
    });
  }

  // Which of the distinct sizes of tiles that of a block is.
  size_t size_of(const ChannelBlock& block) const {
    return static_cast<size_t>(std::find(sizes_.begin(), sizes_.end(), block.tile) - sizes_.begin());
  }

  int64_t group_weights(const DensePhase& phase) const {
    const ChannelBlock& last = blocks_.back();
    return (last.first + last.tile) * inputs_ * phase.taps();
  }

  int64_t weights_of(const DensePhase& phase, int64_t group, const ChannelBlock& block) const {
    return phase.weights + group * group_weights(phase) + block.first * inputs_ * phase.taps();
  }

  void compute(const T* packed, int64_t block_size, const std::vector<std::vector<Unit>>& units, int64_t count) {
    struct Task {
      const DensePhase* phase;
      int64_t group, first_block, last_block, lanes_block, first_row, last_row;
    };
    std::vector<Task> tasks;
    for (int64_t b = 0; b < count; ++b)
      for (size_t p = 0; p < phases_.size(); p += row_phases()) {
        const DensePhase* phase = &phases_[p];
        const int64_t rows = phase->outputs[0] * phase->outputs[1], blocks = static_cast<int64_t>(blocks_.size());
        int64_t work = 0;
        for (size_t i = 0; i < row_phases(); ++i) work += inputs_ * phase[i].taps() * phase[i].outputs[2];
        const int64_t stored = axes_[2].sub * phase->axis[2]->every;
        // of a row and a block of channels
        const int64_t cycles = std::max<int64_t>(1, (work / 2 + stored * kStoreCycles) * blocks_[0].tile);
        const int64_t all = rows * cycles * blocks * groups_ * count;
        const int64_t wanted = std::clamp(all / kTasks, kLeastCycles, kTaskCycles);
        // Small weights: blocks of channels share the lists of taps and the row, which stays in the cache.
        const bool shared = group_weights(*phase) * static_cast<int64_t>(sizeof(T)) <= kWindowBytes / 4;
        const int64_t together = shared ? std::min(blocks, 1 + wanted / cycles) : 1;
        const int64_t least = channels_at_once(*phase) < inputs_ ? kSharingRows : 1;
        const int64_t step = std::max(least, 1 + wanted / (cycles * together));
        for (int64_t g = 0; g < groups_; ++g)
          for (int64_t r0 = 0; r0 < rows; r0 += shared ? step : rows)
            for (int64_t o = 0; o < blocks; o += together)
              for (int64_t r = r0; r < (shared ? std::min(rows, r0 + step) : rows); r += step)
                tasks.push_back({phase, g, o, std::min(blocks, o + together), b, r, std::min(rows, r + step)});
      }
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      const Task& t = tasks[i];
      compute_rows(packed + t.lanes_block * block_size + t.group * inputs_ * channel_, units[t.lanes_block], t.phase,
                   t.group, &blocks_[t.first_block], blocks_.data() + t.last_block, t.first_row, t.last_row);
    });
  }

  // Input channels whose window for one row of outputs stays in the second-level cache until the next row.
  int64_t channels_at_once(const DensePhase& phase) const {
    const int64_t lines = phase.taps() / static_cast<int64_t>(phase.axis[2]->taps.size());
    return std::max<int64_t>(1, std::min(inputs_, kWindowBytes / (lines * row_ * static_cast<int64_t>(sizeof(T)))));
  }

  // Phases of W, which share the rows of the output.
  size_t row_phases() const { return axes_[2].phases.size(); }

  // Computes rows of `phase` and of the phases of W after it, for the output channels of some blocks.
  void compute_rows(const T* in, const std::vector<Unit>& units, const DensePhase* phase, int64_t group,
                    const ChannelBlock* block, const ChannelBlock* end, int64_t first_row, int64_t last_row) {
    const int64_t L = table_.lanes, every = phase->axis[2]->every, first_output = block->first;
    const int64_t span = axes_[2].cuts == 1 ? axes_[2].out : axes_[2].sub * every;  // outputs of a row
    const int64_t channels = channels_at_once(*phase), output_line = (last_row - first_row) * span * L;
    const int64_t size = (end[-1].first + end[-1].tile - first_output) * output_line;
    std::vector<RowTaps> row_taps;  // (phase of W, size of tile)
    for (size_t i = 0; i < row_phases(); ++i)
      for (const RowTiles& tiles : phase[i].tiles) row_taps.emplace_back(phase[i], tiles);
    Scratch<T> lines(size), plain(L * span);
    if (static_cast<int64_t>(row_phases()) < std::min(every, axes_[2].out)) std::fill_n(lines.get(), size, T(0));
    for (int64_t c = 0; c < inputs_; c += channels)
      for (int64_t row = first_row; row < last_row; ++row) {
        const int64_t d = row / phase->outputs[1], h = row % phase->outputs[1];
        const T* at = in + c * channel_ + d * axes_[0].step * plane_ + h * axes_[1].step * row_;
        for (const ChannelBlock* b = block; b < end; ++b)
          for (size_t i = 0; i < row_phases(); ++i) {
            T* to = lines.get() + (b->first - first_output) * output_line +
                    ((row - first_row) * span + phase[i].axis[2]->first) * L;
            const int64_t w_channel = phase[i].taps() * b->tile;
            const T* weights = packed_weights_ + weights_of(phase[i], group, *b) + c * w_channel;
            RowTaps& taps = row_taps[i * sizes_.size() + size_of(*b)];
            taps.move_to(d, h);
            for (const RowTiles::Tile& tile : taps.tiles()) {
              const std::vector<TapOffset>& list = taps.list(tile);
              table_.tile[b->tile][tile.positions](
                  at + tile.first * L, channel_, weights, w_channel, std::min(channels, inputs_ - c), list.data(),
                  static_cast<int64_t>(list.size()), to + tile.first * every * L, output_line, every * L, c > 0);
            }
          }
      }
    const bool adjoin = rows_adjoin(units, *phase);
    std::vector<int64_t> targets;
    if (!adjoin)
      for (int64_t row = first_row; row < last_row; ++row) append_targets(units, *phase, row, &targets);
    for (const ChannelBlock* b = block; b < end; ++b)
      for (int64_t o = b->first; o < b->first + b->valid; ++o) {
        T* line = lines.get() + (o - first_output) * output_line;
        T* channel = out_.data + (group * outputs_ + o) * out_.stride[1];
        finish_(line, output_line, group * outputs_ + o);
        if (adjoin) {
          T* rows[64];
          for (int l = 0; l < L; ++l) rows[l] = channel + units[l].image * out_.stride[0] + first_row * span;
          table_.deinterleave(line, L, (last_row - first_row) * span, rows);
        } else {
          for (int64_t row = 0; row < last_row - first_row; ++row, line += span * L)
            store_row(line, span, units, *phase->axis[2], channel, targets.data() + row * L, plain.get());
        }
      }
  }

  // Do rows of the output that follow each other lie in memory without a gap, in every lane?
  bool rows_adjoin(const std::vector<Unit>& units, const DensePhase& phase) const {
    for (int i = 0; i < 3; ++i)
      if (axes_[i].cuts != 1 || (i < 2 && phase.axis[i]->outputs != axes_[i].out)) return false;
    return units.back().image >= 0 && out_.stride[4] == 1 && out_.stride[3] == axes_[2].out &&
           (axes_[0].out == 1 || out_.stride[2] == axes_[1].out * axes_[2].out);
  }

  // Where in a channel the lanes of a row begin; kOutside for those that stand for no row of the output.
  void append_targets(const std::vector<Unit>& units, const DensePhase& phase, int64_t row,
                      std::vector<int64_t>* targets) const {
    const Phase &pd = *phase.axis[0], &ph = *phase.axis[1];
    const int64_t d = row / phase.outputs[1], h = row % phase.outputs[1];
    for (const Unit& u : units) {
      const int64_t od = u.start[0] + d, oh = u.start[1] + h;
      const bool inside = u.image >= 0 && od < pd.outputs && oh < ph.outputs;
      targets->push_back(inside ? u.image * out_.stride[0] + (pd.first + od * pd.every) * out_.stride[2] +
                                      (ph.first + oh * ph.every) * out_.stride[3] +
                                      u.start[2] * phase.axis[2]->every * out_.stride[4]
                                : kOutside);
    }
  }

  // One row of lane layout to the rows of the output that its lanes stand for.
  void store_row(const T* line, int64_t span, const std::vector<Unit>& units, const Phase& w, T* channel,
                 const int64_t* target, T* plain) {
    const int L = table_.lanes;
    const int64_t stride = out_.stride[4];
    const bool direct = axes_[2].cuts == 1 && stride == 1;
    T* rows[64] = {};
    for (int l = 0; l < L; ++l) rows[l] = direct && target[l] != kOutside ? channel + target[l] : plain + l * span;
    table_.deinterleave(line, L, span, rows);
    if (direct) return;
    for (int l = 0; l < L; ++l) {
      if (target[l] == kOutside) continue;
      const int64_t valid = std::min(span, axes_[2].out - units[l].start[2] * w.every);
      for (int64_t i = 0; i < valid; ++i) channel[target[l] + i * stride] = rows[l][i];
    }
  }

  static constexpr int64_t kOutside = std::numeric_limits<int64_t>::min();

  const View<const T> in_;
  const View<T> out_;
  const Weights<T> w_;
  const int64_t groups_, inputs_, outputs_;  // channels per group
  Axes axes_;
  const Finish<T> finish_;
  const ConvTable<T>& table_;
  const std::vector<ChannelBlock> blocks_;
  std::vector<int> sizes_;  // of their tiles, each once
  std::vector<DensePhase> phases_;
  const T* packed_weights_ = nullptr;          // of the lane group that is computed
  int64_t row_ = 0, plane_ = 0, channel_ = 0;  // strides of the packed input
};

}  // namespace

template <class T>
void conv_batch(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Finish<T>& finish) {
  GatherConv<T>(x, y, conv_weights(w, g), g.groups, gather_axes(g), finish).run();
}

template <class T>
void conv_transpose_batch(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, const Finish<T>& finish) {
  GatherConv<T>(y, x, conv_transpose_weights(w, g), g.groups, transposed_gather_axes(g), finish).run();
}

#define GK_INSTANTIATE(T)                                                                                    \
  template void conv_batch<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Finish<T>&); \
  template void conv_transpose_batch<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Finish<T>&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
