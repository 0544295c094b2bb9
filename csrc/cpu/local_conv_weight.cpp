// The gradient of the weights of a locally connected convolution: every weight is a sum over images, so at each pair of
// cells that meet it is a matrix product of the channels of both. The channels of one slot are lanes.
#include <algorithm>

#include "local_conv.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kSumBytes = 192 << 10;  // sums of one task: they stay in the second cache
constexpr int64_t kTasks = 8;             // of a pass, at least, where the positions allow it
constexpr int64_t kLeastSums = 4;         // that a tile adds up at a time: multiply-adds take four cycles to end

template <class T>
int64_t volume(const View<T>& v) {
  return v.shape[2] * v.shape[3] * v.shape[4];
}

// Images [first, first + count) of one slot with channels in the lanes: (group, cell, image, number). `channel(i)` is
// the channel of number i of all groups, negative for none.
template <class T>
class ChannelLanes {
 public:
  template <class Channel>
  ChannelLanes(const View<const T>& v, int64_t groups, int64_t width, int64_t first, int64_t count, Channel channel)
      : width_(width),
        cells_(volume(v)),
        cell_(count * width + conv_table<T>().lanes),  // powers of two would meet in one set of a cache
        packed_(groups * cells_ * cell_) {
    const ConvTable<T>& table = conv_table<T>();
    Scratch<T> zeros(cells_);
    std::fill_n(zeros.get(), cells_, T(0));
    parallel_for(count * groups, [&](int64_t i) {
      const int64_t n = i / groups, group = i % groups;
      const T* image = v.data + (first + n) * v.stride[0];
      std::vector<const T*> rows(table.lanes);
      for (int64_t at = 0; at < width; at += table.lanes) {
        for (int l = 0; l < table.lanes; ++l) {
          const int64_t c = channel(group * width + at + l);
          rows[l] = c < 0 ? zeros.get() : image + c * v.stride[1];
        }
        table.interleave(rows.data(), cells_, packed_.get() + group * cells_ * cell_ + n * width + at, cell_);
      }
    });
  }

  int64_t width() const { return width_; }  // numbers of an image
  const T* at(int64_t group, int64_t cell) const { return packed_.get() + (group * cells_ + cell) * cell_; }

 private:
  int64_t width_, cells_, cell_;
  Scratch<T> packed_;
};

// The weights' gradient w(O, C/groups, position, tap) of images [first, first + count): what a pass knows.
template <class T>
struct WeightPass {
  const View<const T>&x, &y;
  const View<T>& w;
  const ConvGeometry& g;
  const LocalTaps& taps;
  int64_t first, count;

  const ConvTable<T>& table = conv_table<T>();
  int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, K = g.taps(), P = g.y_volume();

  int64_t whole_vectors(int64_t n) const { return ceil_div(n, table.lanes) * table.lanes; }

  // Positions are cut into tasks(group, first, last) whose sums take `numbers` for each weight of a position.
  template <class Task>
  void for_positions(int64_t groups, int64_t numbers, Task task) const {
    const int64_t bytes = K * numbers * static_cast<int64_t>(sizeof(T));
    const int64_t run = local_run(table, g);
    const int64_t some = std::clamp(kSumBytes / bytes, run, std::max(run, ceil_div(P, kTasks)));
    const int64_t slabs = ceil_div(P, some);
    parallel_for(groups * slabs, [&](int64_t i) {
      const int64_t begin = i % slabs * some;
      task(i / slabs, begin, std::min(P, begin + some));
    });
  }

  // Sums lie as (position and tap, number); `at(l)` is where the run of weights of lane l lies, null for none.
  template <class At>
  std::vector<T*> lane_rows(At at, T* nobody) const {
    std::vector<T*> rows(table.lanes);
    for (int l = 0; l < table.lanes; ++l) {
      T* run = at(l);
      rows[l] = run ? run : nobody;
    }
    return rows;
  }

  // The largest tile that `outputs` fill.
  int whole_tile(int64_t outputs) const {
    int tile = static_cast<int>(std::min<int64_t>(outputs, table.wide_outputs));
    while (table.max_positions[tile] == 0) --tile;
    return tile;
  }

  void wide(bool x_in_lanes) const;
  void narrow(bool x_in_lanes) const;
};

// Channels of one slot are lanes, numbers of the other are broadcast.
template <class T>
void WeightPass<T>::wide(bool x_in_lanes) const {
  const int L = table.lanes;
  const auto lane_channels = [&](int64_t channels) {
    const int64_t width = whole_vectors(channels);
    return [=](int64_t i) { return i % width < channels ? i / width * channels + i % width : int64_t(-1); };
  };
  const ChannelLanes<T> xs(x, g.groups, whole_vectors(C), first, count, lane_channels(C));
  const ChannelLanes<T> ys(y, g.groups, whole_vectors(O), first, count, lane_channels(O));
  const ChannelLanes<T>&lanes = x_in_lanes ? xs : ys, &broadcast = x_in_lanes ? ys : xs;
  const int64_t lane_count = x_in_lanes ? C : O, rows = x_in_lanes ? O : C, width = lanes.width();
  const int64_t lane_stride = w.stride[x_in_lanes ? 1 : 0], row_stride = w.stride[x_in_lanes ? 0 : 1];
  const TapOffset only{0, 0};
  const int64_t fit = kSumBytes / (local_run(table, g) * K * width * static_cast<int64_t>(sizeof(T)));
  const int64_t row_count = std::max<int64_t>(1, fit / table.wide_outputs) * table.wide_outputs;  // of a task
  const int64_t sets = ceil_div(rows, row_count);
  for_positions(g.groups * sets, std::min(rows, row_count) * width, [&](int64_t i, int64_t begin, int64_t end) {
    const int64_t group = i / sets, first_row = i % sets * row_count, last_row = std::min(rows, first_row + row_count);
    const int64_t run = (end - begin) * K, row = run * width;
    int64_t padded = 0;
    while (padded < last_row - first_row) padded += tile_outputs(table, last_row - first_row - padded);
    Scratch<T> sums(padded * row), nobody(run);  // (channel that is broadcast, weight, lane)
    const auto for_runs = [&](auto step) {
      for (int64_t r = first_row; r < last_row; ++r)
        for (int64_t v = 0; v < width; v += L) {
          T* at = w.data + group * O * w.stride[0] + r * row_stride + v * lane_stride + begin * K;
          step(lane_rows([&](int l) { return v + l < lane_count ? at + l * lane_stride : nullptr; }, nobody.get()),
               sums.get() + (r - first_row) * row + v);
        }
    };
    std::fill_n(sums.get(), padded * row, T(0));
    std::fill_n(nobody.get(), run, T(0));
    if (first > 0) for_runs([&](const std::vector<T*>& from, T* to) { table.interleave(from.data(), run, to, width); });
    for (int64_t p = begin; p < end; ++p)
      for (const LocalTap* tap = taps.of(p); tap != taps.of(p + 1); ++tap) {
        const T* vectors = lanes.at(group, x_in_lanes ? tap->cell : p);
        const T* numbers = broadcast.at(group, x_in_lanes ? p : tap->cell);
        T* sum = sums.get() + (tap->weight - begin * K) * width;
        for (int64_t r = first_row; r < last_row;) {
          const int outputs = tile_outputs(table, last_row - r);
          const int64_t pieces = ceil_div(width / L, table.max_positions[outputs]);
          for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t v = width / L * piece / pieces, some = width / L * (piece + 1) / pieces - v;
            table.tile[outputs][some](vectors + v * L, width, numbers + r, broadcast.width(), count, &only, 1,
                                      sum + (r - first_row) * row + v * L, row, L, true);
          }
          r += outputs;
        }
      }
    for_runs([&](const std::vector<T*>& to, const T* from) { table.deinterleave(from, width, run, to.data()); });
  });
}

// Few channels in a group: the channels of one slot in all groups are lanes, and each lane also holds what it meets in
// the other slot, in as many vectors as that has channels. Taps are then sums of their own.
template <class T>
void WeightPass<T>::narrow(bool x_in_lanes) const {
  const int L = table.lanes;
  const int64_t own = x_in_lanes ? C : O, met = x_in_lanes ? O : C, channels = g.groups * own;
  const int64_t vectors = ceil_div(channels, L);
  const auto lane = [=](int64_t i) { return i < channels ? i : int64_t(-1); };
  const auto partner = [=](int64_t i) {  // (vector, channel that is met, lane)
    const int64_t e = i / (met * L) * L + i % L;
    return e < channels ? e / own * met + i / L % met : int64_t(-1);
  };
  const ChannelLanes<T> xs = x_in_lanes ? ChannelLanes<T>(x, vectors, L, first, count, lane)
                                        : ChannelLanes<T>(x, vectors, met * L, first, count, partner);
  const ChannelLanes<T> ys = x_in_lanes ? ChannelLanes<T>(y, vectors, met * L, first, count, partner)
                                        : ChannelLanes<T>(y, vectors, L, first, count, lane);
  const int64_t width = met * L;
  for_positions(vectors, width, [&](int64_t vector, int64_t begin, int64_t end) {
    const int64_t run = (end - begin) * K;
    Scratch<T> sums(run * width), nobody(run);  // (weight, channel that is met, lane)
    const auto for_runs = [&](auto step) {
      for (int64_t m = 0; m < met; ++m)
        step(lane_rows(
                 [&](int l) -> T* {
                   const int64_t e = vector * L + l;
                   if (e >= channels) return nullptr;
                   const int64_t o = x_in_lanes ? e / C * O + m : e, c = x_in_lanes ? e % C : m;
                   return w.data + o * w.stride[0] + c * w.stride[1] + begin * K;
                 },
                 nobody.get()),
             sums.get() + m * L);
    };
    std::fill_n(sums.get(), run * width, T(0));
    std::fill_n(nobody.get(), run, T(0));
    if (first > 0) for_runs([&](const std::vector<T*>& from, T* to) { table.interleave(from.data(), run, to, width); });
    std::vector<TapOffset> offsets(K);
    const T* cells = xs.at(vector, 0);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t meetings = taps.count(p);
      for (int64_t t = 0; t < meetings; ++t) {
        const LocalTap& tap = taps.of(p)[t];
        offsets[t] = {xs.at(vector, tap.cell) - cells, (tap.weight - begin * K) * width};
      }
      for (int64_t m = 0; m < met;) {
        const int outputs = x_in_lanes ? whole_tile(met - m) : 1;
        const int64_t widest = table.max_positions[outputs];
        for (int64_t t = 0; t < meetings; t += widest)
          table.weight_tile[outputs][std::min(widest, meetings - t)](
              cells + (x_in_lanes ? 0 : m * L), xs.width(), ys.at(vector, p) + (x_in_lanes ? m * L : 0), ys.width(),
              count, 1, offsets.data() + t, sums.get() + m * L);
        m += outputs;
      }
    }
    for_runs([&](const std::vector<T*>& to, const T* from) { table.deinterleave(from, width, run, to.data()); });
  });
}

}  // namespace

template <class T>
void local_conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  if (w.size() == 0) return;
  if (x.size() == 0 || y.size() == 0) return fill<T>(w, 0.0);
  const DenseOperand<T> xs(x.volume()), ys(y.volume());
  const DenseResult<T> result(w);
  const LocalTaps taps = taps_of_y(g);
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, L = conv_table<T>().lanes;
  const bool x_in_lanes = ceil_div(C, L) * O <= ceil_div(O, L) * C;
  const bool shared_lanes = g.groups > 1 && 2 * std::max(C, O) <= L;  // lanes of several groups
  const bool one_sum = (x_in_lanes ? O * ceil_div(C, L) : C * ceil_div(O, L)) < kLeastSums;
  for_local_images<T>(g.batch, [&](int64_t first, int64_t count) {
    const WeightPass<T> pass{xs.view(), ys.view(), result.view(), g, taps, first, count};
    shared_lanes || one_sum ? pass.narrow(x_in_lanes) : pass.wide(x_in_lanes);
  });
  result.finish();
}

template void local_conv_weight<float>(View<const float>, View<const float>, View<float>, const ConvGeometry&);
template void local_conv_weight<double>(View<const double>, View<const double>, View<double>, const ConvGeometry&);

}  // namespace gk::cpu
