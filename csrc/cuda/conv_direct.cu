// The direct path: which geometries it covers, and how a block's tile is chosen for one.
#include "conv_direct.cuh"

#include <algorithm>
#include <climits>
#include <cstdint>

#include "../core/error.hpp"
#include "conv_paths.hpp"

namespace gk::cuda {
namespace {

// Three blocks of 128 threads and at most 168 registers fill an SM of 65536 registers and 228 KiB.
constexpr size_t kMostShared = 72 * 1024;
constexpr int kWindows[] = {8, 5};
constexpr int kTapRuns[] = {5, 3, 2};

int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// What the plan decides beside the gather itself.
struct Plan {
  int window = 0, outputs = 0, taps = 0;  // TW, TO, TK
  bool covered() const { return window > 0; }
};

// A warp reads cells `corner` + i of shared memory at once: the row length, from `least` on, with fewest bank
// conflicts.
template <class T>
int row_length(const Gather<T>& g, int window, int least) {
  int best = least, best_conflicts = INT_MAX;
  for (int row = least; row < least + kWarpSize; ++row) {
    int uses[kWarpSize] = {}, conflicts = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int place = lane / g.segments, h = place % g.axis[1].tile, d = place / g.axis[1].tile;
      const int line = d * g.axis[0].step * g.axis[1].window + h * g.axis[1].step;
      conflicts = std::max(conflicts, ++uses[(line * row + lane % g.segments * window) % kWarpSize]);
    }
    if (conflicts < best_conflicts) best = row, best_conflicts = conflicts;
  }
  return best;
}

void set_tile(GatherAxis& a, int tile, int padded_taps) {
  a.tile = tile;
  a.tiles = ceil_divide(a.count, tile);
  a.window = a.step * (tile - 1) + a.tap_step * (padded_taps - 1) + 1;
}

// Fills in tiles for the least work: multiply-adds of all threads, idle ones too, and copies at about ten instructions.
template <class T>
Plan make_plan(Gather<T>& g) {
  Plan plan;
  plan.outputs = ceil_divide(g.outputs, 6) * 6 < ceil_divide(g.outputs, 8) * 8 ? 6 : 8;
  g.padded_taps = INT_MAX;
  for (const int run : kTapRuns)
    if (const int padded = ceil_divide(g.axis[2].taps, run) * run; padded < g.padded_taps)
      g.padded_taps = padded, plan.taps = run;
  const Gather<T> asked = g;
  double least = 1e300;
  for (const int window : kWindows) {
    Gather<T> t = asked;
    t.segments = std::min(ceil_divide(t.axis[2].count, window), 8);
    set_tile(t.axis[2], t.segments * window, t.padded_taps);
    const int places = kDirectThreads / t.segments;
    for (int h = 1; h <= std::min(places, t.axis[1].count); ++h) {
      set_tile(t.axis[1], h, t.axis[1].taps);
      set_tile(t.axis[0], std::min(places / h, t.axis[0].count), t.axis[0].taps);
      t.row = t.axis[2].window + kWarpSize;  // at most what row_length gives
      const DirectSizes<T> size(t, 8);
      if (size.bytes > kMostShared || size.rows > 4096) continue;
      const double tiles = double(t.axis[0].tiles) * t.axis[1].tiles * t.axis[2].tiles;
      const double sums = double(size.taps) * window * plan.outputs;
      const double copies = 10.0 * (size.rows * t.axis[2].window + size.weights) / kDirectThreads;
      if (tiles * (sums + copies) < least) least = tiles * (sums + copies), g = t, plan.window = window;
    }
  }
  if (plan.covered()) g.row = row_length(g, plan.window, g.axis[2].window);
  return plan;
}

template <class T>
using Kernel = void (*)(const Gather<T>);

template <class T, int TW, int TO>
Kernel<T> with_taps(int taps) {
  if (taps == 5) return conv_direct_kernel<T, TW, TO, 5>;
  return taps == 3 ? conv_direct_kernel<T, TW, TO, 3> : conv_direct_kernel<T, TW, TO, 2>;
}

template <class T>
Kernel<T> kernel_of(const Plan& p) {
  if (p.window == 8) return p.outputs == 8 ? with_taps<T, 8, 8>(p.taps) : with_taps<T, 8, 6>(p.taps);
  return p.outputs == 8 ? with_taps<T, 5, 8>(p.taps) : with_taps<T, 5, 6>(p.taps);
}

template <class T>
bool run(Gather<T>& g) {
  const Plan plan = make_plan(g);
  if (!plan.covered()) return false;
  int64_t total = g.batch * g.groups * ceil_divide(g.outputs, plan.outputs);
  for (const GatherAxis& a : g.axis) total *= int64_t(a.tiles) * a.phases;
  GK_CHECK(total <= INT_MAX, "more tiles than a grid has blocks");
  const auto blocks = static_cast<unsigned>(total);
  if (g.after.moments != nullptr) {
    const int64_t tiles = total / (g.groups * ceil_divide(g.outputs, plan.outputs));
    g.after.found = g.after.moments->found(tiles * kDirectWarps);
  }
  launch({dim3(blocks), dim3(kDirectThreads), DirectSizes<T>(g, 8).bytes}, kernel_of<T>(plan), g);
  return true;
}

}  // namespace

template <class T>
bool conv_direct(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Epilogue<T>& after) {
  if (g.stride[2] != 1 || g.dilation[2] != 1) return false;
  Gather<T> p{x.data,      w.data,      y.data, x.stride[0], x.stride[1], y.stride[0], y.stride[1],
              w.stride[1], w.stride[0], 0,      0,           0,           false,       {},
              {},          1,           1,      1,           g.batch,     after};
  p.channels = static_cast<int>(g.in_channels / g.groups), p.outputs = static_cast<int>(g.out_channels / g.groups);
  p.groups = static_cast<int>(g.groups);
  for (int i = 0; i < 3; ++i) {
    GatherAxis& a = p.axis[i];
    a.count = static_cast<int>(g.y[i]), a.taps = static_cast<int>(g.kernel[i]), a.bound = static_cast<int>(g.x[i]);
    a.step = static_cast<int>(g.stride[i]), a.tap_step = static_cast<int>(g.dilation[i]);
    a.origin = static_cast<int>(-g.pad_lo[i]);
    a.in = x.stride[i + 2], a.out = y.stride[i + 2], a.tap = w.stride[i + 2];
  }
  return run(p);
}

template <class T>
bool conv_transpose_direct(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g,
                           const Epilogue<T>& after) {
  Gather<T> p{y.data,      w.data,      x.data, y.stride[0], y.stride[1], x.stride[0], x.stride[1],
              w.stride[0], w.stride[1], 0,      0,           0,           true,        {},
              {},          1,           1,      1,           g.batch,     after};
  p.channels = static_cast<int>(g.out_channels / g.groups), p.outputs = static_cast<int>(g.in_channels / g.groups);
  p.groups = static_cast<int>(g.groups);
  for (int i = 0; i < 3; ++i) {
    const PhaseAxis& phase = p.phase[i] = phase_axis(g, i);
    GatherAxis& a = p.axis[i];
    a.count = static_cast<int>((g.x[i] + g.stride[i] - 1) / g.stride[i]);
    a.taps = static_cast<int>((g.kernel[i] + phase.every - 1) / phase.every);
    a.phases = static_cast<int>(std::min(g.stride[i], g.x[i]));
    a.bound = static_cast<int>(g.y[i]);
    a.tap_step = static_cast<int>(phase.back);
    a.in = y.stride[i + 2], a.out = g.stride[i] * x.stride[i + 2], a.tap = -phase.every * w.stride[i + 2];
    a.phase_out = x.stride[i + 2], a.phase_tap = w.stride[i + 2];
  }
  if (p.axis[2].tap_step != 1) return false;
  return run(p);
}

template bool conv_direct<float>(View<const float>, View<const float>, View<float>, const ConvGeometry&,
                                 const Epilogue<float>&);
template bool conv_transpose_direct<float>(View<const float>, View<const float>, View<float>, const ConvGeometry&,
                                           const Epilogue<float>&);

}  // namespace gk::cuda
