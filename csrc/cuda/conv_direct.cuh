// The direct path's kernel for few channels (1 to 64, 27 to 288 taps): forward and, phase by phase, transposed. Both
// are "gathers": an output is a sum over channels and taps i of the input at origin + step*t + tap_step*i.
//
// A block owns a tile of positions of one image and TO output channels. For one input channel at a time it holds the
// cells that the tile sees, and all taps of its outputs, in shared memory (the next channel is on its way meanwhile).
// A thread owns TW neighbours along w times TO channels in registers; for a row of taps it slides along a window of
// TW + TK - 1 cells: TW*TO*TK multiply-adds for TW + TK - 1 cell loads and TK*TO/4 tap loads, which are broadcasts:
// 320 for 22 with 8, 8, 5. So arithmetic is the limit, whatever the channel count: no lane waits for a channel.
#pragma once

#include "epilogue.cuh"
#include "index.cuh"
#include "launch.cuh"
#include "tensor_core.cuh"

namespace gk::cuda {

// One axis of a gather; of all phases together where `phased`.
struct GatherAxis {
  int count = 1, taps = 1;     // of the largest phase
  int step = 1, tap_step = 1;  // cells
  int origin = 0;
  int tile = 1;    // positions of a block
  int window = 1;  // cells that a tile sees
  int tiles = 1, phases = 1;
  int bound = 1;                         // cells of the input
  int64_t in = 0, out = 0, tap = 0;      // strides; `out` from one position to the next, in a phase
  int64_t phase_out = 0, phase_tap = 0;  // strides of a cell of the output and of a tap, both of phase 0
};

template <class T>
struct Gather {
  const T* in;
  const T* w;
  T* out;
  int64_t in_image, in_channel, out_image, out_channel, w_in, w_out;
  int channels, outputs, groups;  // channels and outputs of a group
  bool phased;
  GatherAxis axis[3];
  PhaseAxis phase[3];
  int segments;     // threads along w
  int row;          // elements of a row of cells in shared memory: see conv_direct.cu
  int padded_taps;  // along w, a multiple of TK
  int64_t batch;
  Epilogue<T> after;
};

// Of one phase: what GatherAxis says of all.
struct Gathered {
  int count, taps, origin;
  int64_t out, w;
};

__device__ inline Gathered gathered(const GatherAxis& a, const PhaseAxis& phase, bool phased, int q) {
  if (!phased) return {a.count, a.taps, a.origin, 0, 0};
  const PhaseTaps at = phase_taps(phase, q);
  const int taps = static_cast<int>(at.count), position = static_cast<int>(at.position);
  Gathered g{static_cast<int>(at.lines), taps, position, q * a.phase_out, at.first * a.phase_tap};
  // A phase's taps lie at falling cells: they are numbered from the last.
  if (taps > 0) g.origin -= (taps - 1) * a.tap_step, g.w -= (taps - 1) * a.tap;
  return g;
}

constexpr int kDirectThreads = 128, kDirectWarps = kDirectThreads / kWarpSize;
constexpr int64_t kNoCell = INT64_MIN;

// Elements of shared memory, in the order in which they lie there; offsets first, they need 8 bytes.
template <class T>
struct DirectSizes {
  int rows, taps, cells, weights;
  size_t bytes;
  __host__ __device__ DirectSizes(const Gather<T>& g, int out_pad)
      : rows(g.axis[0].window * g.axis[1].window),
        taps(g.axis[0].taps * g.axis[1].taps * g.padded_taps),
        cells((rows * g.row + 3) / 4 * 4),
        weights(taps * out_pad),
        bytes((rows + taps + 1) * sizeof(int64_t) + 2 * (cells + weights) * sizeof(T)) {}
};

template <class T, int TW, int TO, int TK>
__global__ void __launch_bounds__(kDirectThreads, 3) conv_direct_kernel(const Gather<T> g) {
  constexpr int kOut = (TO + 3) / 4 * 4;
  const DirectSizes<T> size(g, kOut);
  int64_t* const row_offset = dynamic_shared<int64_t>();
  int64_t* const tap_offset = row_offset + size.rows;
  T* const cells = reinterpret_cast<T*>(tap_offset + size.taps + (size.rows + size.taps) % 2);
  T* const weights = cells + 2 * size.cells;
  const int warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int segment = threadIdx.x % g.segments, place = threadIdx.x / g.segments;

  // which tile, of which phase, group, channels and image
  int64_t rest = blockIdx.x;
  const auto next = [&](int64_t count) {
    const int64_t left = divide(rest, count), digit = rest - left * count;
    rest = left;
    return static_cast<int>(digit);
  };
  int first[3];
  Gathered at[3];
  for (int i = 2; i >= 0; --i) {
    first[i] = next(g.axis[i].tiles) * g.axis[i].tile;
    at[i] = gathered(g.axis[i], g.phase[i], g.phased, next(g.axis[i].phases));
  }
  const int o0 = next((g.outputs + TO - 1) / TO) * TO, group = next(g.groups);
  const T* const in = g.in + rest * g.in_image + int64_t(group) * g.channels * g.in_channel;
  const int64_t channel = int64_t(group) * g.outputs + o0;
  const auto found = [&] {  // by this warp; outputs of all groups lie side by side
    int64_t tiles = 1;      // of an image
    for (const GatherAxis& a : g.axis) tiles *= int64_t(a.tiles) * a.phases;
    const int64_t tile = blockIdx.x - divide(blockIdx.x, tiles) * tiles;
    return g.after.found + ((rest * tiles + tile) * kDirectWarps + warp) * g.groups * g.outputs + channel;
  };
  const bool empty = first[0] >= at[0].count || first[1] >= at[1].count || first[2] >= at[2].count;
  if (empty) {  // a phase with fewer positions than the largest
    if (g.after.found != nullptr && lane < TO && o0 + lane < g.outputs) found()[lane] = {0, 0, 0};
    return;
  }
  int cell0[3];
  for (int i = 0; i < 3; ++i) cell0[i] = at[i].origin + first[i] * g.axis[i].step;

  for (int r = threadIdx.x; r < size.rows; r += kDirectThreads) {
    const int d = cell0[0] + r / g.axis[1].window, h = cell0[1] + r % g.axis[1].window;
    const bool inside = d >= 0 && d < g.axis[0].bound && h >= 0 && h < g.axis[1].bound;
    row_offset[r] = inside ? d * g.axis[0].in + h * g.axis[1].in : kNoCell;
  }
  const int64_t w_channels = g.phased ? g.channels : g.outputs;  // of the group, along w's first axis
  const int64_t w_base = group * w_channels * (g.phased ? g.w_in : g.w_out) + at[0].w + at[1].w + at[2].w;
  const int taps = at[0].taps * at[1].taps * g.padded_taps;
  for (int i = threadIdx.x; i < taps; i += kDirectThreads) {
    const int kw = i % g.padded_taps, line = i / g.padded_taps, kh = line % at[1].taps, kd = line / at[1].taps;
    tap_offset[i] = kw < at[2].taps ? kd * g.axis[0].tap + kh * g.axis[1].tap + kw * g.axis[2].tap : kNoCell;
  }
  __syncthreads();

  const auto fetch = [&](int c) {
    T* const to = cells + c % 2 * size.cells;
    const T* const from = in + c * g.in_channel;
    for (int r = warp; r < size.rows; r += kDirectWarps) {
      const int64_t offset = row_offset[r];
      for (int x = lane; x < g.axis[2].window; x += kWarpSize) {
        const int w = cell0[2] + x;
        const bool inside = offset != kNoCell && w >= 0 && w < g.axis[2].bound;
        cp_async<sizeof(T)>(to + r * g.row + x, inside ? from + offset + w * g.axis[2].in : from, inside);
      }
    }
    T* const w_to = weights + c % 2 * size.weights;
    const T* const w_from = g.w + w_base + c * g.w_in;
    for (int i = threadIdx.x; i < taps * kOut; i += kDirectThreads) {
      const int o = i % kOut;
      const int64_t offset = tap_offset[i / kOut];
      const bool inside = offset != kNoCell && o < TO && o0 + o < g.outputs;
      cp_async<sizeof(T)>(w_to + i, inside ? w_from + offset + (o0 + o) * g.w_out : g.w, inside);
    }
  };

  const int th = place % g.axis[1].tile, td = place / g.axis[1].tile;
  const bool works = td < g.axis[0].tile;
  const int corner = (td * g.axis[0].step * g.axis[1].window + th * g.axis[1].step) * g.row + segment * TW;
  T sum[TW][TO] = {};
  fetch(0);
  cp_async_commit();
  for (int c = 0; c < g.channels; ++c) {
    cp_async_wait<0>();
    __syncthreads();  // channel c is here for all, channel c - 1 is used up
    if (c + 1 < g.channels) fetch(c + 1);
    cp_async_commit();
    if (!works) continue;
    const T* tap = weights + c % 2 * size.weights;
    for (int kd = 0; kd < at[0].taps; ++kd)
      for (int kh = 0; kh < at[1].taps; ++kh) {
        const T* cell = cells + c % 2 * size.cells + corner +
                        (kd * g.axis[0].tap_step * g.axis[1].window + kh * g.axis[1].tap_step) * g.row;
        for (int kw = 0; kw < g.padded_taps; kw += TK, cell += TK) {
          T window[TW + TK - 1];
          GK_UNROLL
          for (int i = 0; i < TW + TK - 1; ++i) window[i] = cell[i];
          GK_UNROLL
          for (int k = 0; k < TK; ++k, tap += kOut) {
            T factor[kOut];
            GK_UNROLL
            for (int o = 0; o < kOut; o += kPackSize<T>) {
              const Pack<T, kPackSize<T>> p = load_pack<kPackSize<T>>(tap + o);
              GK_UNROLL
              for (int v = 0; v < kPackSize<T>; ++v) factor[o + v] = p.value[v];
            }
            GK_UNROLL
            for (int i = 0; i < TW; ++i) {
              GK_UNROLL
              for (int o = 0; o < TO; ++o) sum[i][o] = multiply_add(window[i + k], factor[o], sum[i][o]);
            }
          }
        }
      }
  }
  cp_async_wait<0>();

  const int d = first[0] + td, h = first[1] + th, w = first[2] + segment * TW;
  const bool stores = works && d < at[0].count && h < at[1].count;
  const bool gathers = g.after.found != nullptr;
  if (!stores && !gathers) return;
  T* const to = g.out + rest * g.out_image + channel * g.out_channel + at[0].out + at[1].out + at[2].out +
                d * g.axis[0].out + h * g.axis[1].out + w * g.axis[2].out;
  GK_UNROLL
  for (int o = 0; o < TO; ++o) {
    if (o0 + o >= g.outputs) continue;
    T* const line = to + o * g.out_channel;
    if (g.after.y != nullptr && g.axis[2].out == 1) {
      T run[TW];
      GK_UNROLL
      for (int i = 0; i < TW; ++i) run[i] = sum[i][o];
      finish<1>(g.after, run, line, channel + o, 0);
      GK_UNROLL
      for (int i = 0; i < TW; ++i) sum[i][o] = run[i];
    } else if (g.after.y != nullptr) {
      GK_UNROLL
      for (int i = 0; i < TW; ++i) {
        T value[1] = {sum[i][o]};
        finish<1>(g.after, value, line + i * g.axis[2].out, channel + o, 0);
        sum[i][o] = value[0];
      }
    }
    MomentSums<T> sums;
    GK_UNROLL
    for (int i = 0; i < TW; ++i) {
      if (!stores || w + i >= at[2].count) continue;
      line[i * g.axis[2].out] = sum[i][o];
      if (gathers) sums.add(sum[i][o]);
    }
    if (!gathers) continue;
    const MomentState<T> moments = joined_lanes<1, kWarpSize / 2>(sums.state());
    if (lane == 0) found()[o] = moments;
  }
}

}  // namespace gk::cuda
