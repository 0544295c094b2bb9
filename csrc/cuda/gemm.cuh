// The product of gemm.hpp, for any kind of tile (gemm_tiles.cuh). A block owns a tile of c and walks along k in slices
// of 16; while it multiplies one slice the next ones are on their way, element by element because lines and taps lie
// anywhere (16 elements a thread and slice against 512 to 1024 multiply-adds): see gemm_slices.cuh. One barrier a
// slice. Static shared memory stays under 48 KiB: two to four blocks an SM. Sums are Compute<T> all the way; a result
// is rounded to T when it is stored, once.
#pragma once

#include <algorithm>
#include <climits>

#include "../core/error.hpp"
#include "gemm.hpp"
#include "gemm_slices.cuh"
#include "gemm_tiles.cuh"
#include "index.cuh"
#include "launch.cuh"
#include "memory.hpp"

namespace gk::cuda {

// One entry of the batch, ready to be multiplied.
template <class T>
struct Selected {
  const T* a;
  const T* b;
  int64_t c;  // offset
  int a_origin[3], b_origin[3], m_extent[3], k_extent[3];
  int64_t m, k, channel;           // the channel of n = 0
  MomentState<Compute<T>>* found;  // of that channel in the first tile of m
};

// `pieces`: of the moments of one entry.
template <class T>
__device__ void select(const Gemm<T>& g, int64_t batch, int64_t pieces, Selected<T>& s) {
  const Place at(batch, g.batch.extent);
  s.a = g.a.data + at.outer * g.a.batch.stride[0];
  s.b = g.b.data + at.outer * g.b.batch.stride[0];
  s.c = at.offset(g.c_batch);
  s.m = g.m.outer, s.k = g.k.outer, s.channel = at.outer * g.n.outer;
  const int64_t phase = (int64_t(at.digit[0]) * g.batch.extent[1] + at.digit[1]) * g.batch.extent[2] + at.digit[2];
  s.found = g.after.found + phase * pieces * g.batch.outer * g.n.outer + s.channel;
  for (int axis = 0; axis < 3; ++axis) {
    int64_t position = at.digit[axis];
    s.m_extent[axis] = g.m.extent[axis], s.k_extent[axis] = g.k.extent[axis];
    if (g.phased) {
      const PhaseTaps taps = phase_taps(g.phase[axis], at.digit[axis]);
      position = taps.position;
      s.k_extent[axis] = static_cast<int>(taps.count);
      if (g.lines_follow) s.m_extent[axis] = static_cast<int>(taps.lines);
      s.b += taps.first * g.b.tap_stride[axis];
    }
    s.a += position * g.a.batch.stride[axis + 1];
    s.b += position * g.b.batch.stride[axis + 1];
    s.a_origin[axis] = g.a.origin[axis] + static_cast<int>(position) * g.a.batch.step[axis];
    s.b_origin[axis] = g.b.origin[axis] + static_cast<int>(position) * g.b.batch.step[axis];
    s.m *= s.m_extent[axis], s.k *= s.k_extent[axis];
  }
}

// Neighbours along m, at once where they are neighbours in memory too; `channel` is that of the first. `values` become
// what is stored. R is T for the result, else Compute<T>, and then nothing follows.
template <class T, class R, int kCount>
__device__ void store(const Gemm<T>& g, bool is_result, R* to, const int64_t* offset, int64_t left, int64_t channel,
                      Compute<T> (&values)[kCount]) {
  const bool accumulate = is_result && g.accumulate;
  [[maybe_unused]] const bool finishes = is_result && g.after.y != nullptr;
  if constexpr (kCount > 1) {
    bool packed = !accumulate && left >= kCount && reinterpret_cast<uintptr_t>(to + offset[0]) % 16 == 0;
    GK_UNROLL
    for (int v = 1; v < kCount; ++v) packed &= offset[v] == offset[0] + v;
    if (packed) {
      if constexpr (std::is_same_v<R, T>)
        if (finishes) finish<kCount>(g.after, values, to + offset[0], channel, g.channels_along_m);
      Pack<R, kCount> p;
      GK_UNROLL
      for (int v = 0; v < kCount; ++v) values[v] = p.value[v] = static_cast<R>(values[v]);
      store_pack<kCount>(to + offset[0], p);
      return;
    }
  }
  GK_UNROLL
  for (int v = 0; v < kCount; ++v) {
    if (v >= left) continue;
    Compute<T> value[1] = {accumulate ? to[offset[v]] + values[v] : values[v]};
    if constexpr (std::is_same_v<R, T>)
      if (finishes) finish<1>(g.after, value, to + offset[v], channel + (g.channels_along_m ? v : 0), 0);
    const R stored = static_cast<R>(value[0]);
    to[offset[v]] = stored;
    values[v] = stored;
  }
}

// Where the tiles of c come from: every tile is one (batch, part of k, tile of n, tile of m).
struct Tiling {
  int64_t m, n, batches;  // counts; m of the largest phase
  int64_t m_tiles, n_tiles, parts, slices_per_part, total;
};

template <class Tile>
struct Storage {
  using T = typename Tile::Element;
  using Word = typename Tile::Word;
  static constexpr int kRows = kSlice * sizeof(T) / sizeof(Word), kRowA = Tile::BM + Tile::kPadM,
                       kRowB = Tile::BN + Tile::kPadN;
  Word a[Tile::kStages][kRows][kRowA], b[Tile::kStages][kRows][kRowB];
  Entry a_line[Tile::BM], b_line[Tile::BN], a_inner[2][kSlice], b_inner[2][kSlice];
  int64_t c_m[Tile::BM], c_n[Tile::BN];
  Selected<T> at;
};

// Where the moments go that the threads of a piece of the tile from (m0, n) on stored of column n.
template <class Tile, class T>
__device__ MomentState<Compute<T>>* found_at(const Gemm<T>& g, const Selected<T>& s, int64_t m0, int piece, int64_t n) {
  return s.found + (m0 / Tile::BM * Tile::kPieces + piece) * g.batch.outer * g.n.outer + n;
}

// parts == 1: writes c; else writes the parts' sums to partial(part, batch, n, m).
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    gemm_kernel(const Gemm<typename Tile::Element> g, const Tiling tiling, Compute<typename Tile::Element>* partial) {
  using T = typename Tile::Element;
  using C = Compute<T>;
  constexpr int kThreads = Tile::kThreads, kStages = Tile::kStages;
  GK_SHARED(Storage<Tile>, s);
  static_assert(sizeof(s) <= 48 * 1024);
  const int64_t n_count = tiling.n;
  const int64_t block = blockIdx.x;
  int64_t rest = divide(block, tiling.n_tiles);
  const int64_t n0 = (block - rest * tiling.n_tiles) * Tile::BN;
  const int64_t m_tile = rest - divide(rest, tiling.m_tiles) * tiling.m_tiles;
  rest = divide(rest, tiling.m_tiles);
  const int64_t batch = divide(rest, tiling.parts), part = rest - batch * tiling.parts;
  if (threadIdx.x == 0) select(g, batch, tiling.m_tiles * Tile::kPieces, s.at);
  __syncthreads();
  const int64_t m0 = m_tile * Tile::BM;
  if (m0 >= s.at.m) {  // a phase with fewer cells than the largest
    if (g.after.found != nullptr)
      for (int i = threadIdx.x; i < Tile::BN * Tile::kPieces; i += kThreads)
        if (n0 + i % Tile::BN < n_count) *found_at<Tile>(g, s.at, m0, i / Tile::BN, n0 + i % Tile::BN) = {0, 0, 0};
    return;
  }

  const auto inner = [&](int64_t slice) {  // by the first kSlice threads
    const int64_t k = slice * kSlice + threadIdx.x;
    s.a_inner[slice % 2][threadIdx.x] = entry(g.a.inner, k, s.at.k, s.at.k_extent);
    s.b_inner[slice % 2][threadIdx.x] = entry(g.b.inner, k, s.at.k, s.at.k_extent);
  };
  const auto add_origin = [](Entry e, const int* origin) {
    for (int axis = 0; axis < 3; ++axis) e.cell[axis] += origin[axis];
    return e;
  };
  for (int i = threadIdx.x; i < Tile::BM; i += kThreads) {
    s.a_line[i] = add_origin(entry(g.a.line, m0 + i, s.at.m, s.at.m_extent), s.at.a_origin);
    s.c_m[i] = tiling.parts > 1 ? m0 + i : Place(m0 + i, s.at.m_extent).offset(g.c_m);
  }
  for (int i = threadIdx.x; i < Tile::BN; i += kThreads) {
    s.b_line[i] = add_origin(entry(g.b.line, n0 + i, n_count, g.n.extent), s.at.b_origin);
    s.c_n[i] = tiling.parts > 1 ? ((part * tiling.batches + batch) * n_count + n0 + i) * s.at.m
                                : Place(n0 + i, g.n.extent).offset(g.c_n);
  }
  const int64_t first = part * tiling.slices_per_part, slices = (s.at.k + kSlice - 1) / kSlice;
  const int64_t end = first + tiling.slices_per_part, last = tiling.parts > 1 && end < slices ? end : slices;
  Share<Tile, Tile::BM, Storage<Tile>::kRowA> a_share;
  Share<Tile, Tile::BN, Storage<Tile>::kRowB> b_share;
  constexpr bool kHeld = decltype(a_share)::kHeld;
  const auto fetch = [&](int64_t slice) {
    const int to = static_cast<int>((slice - first) % kStages), table = slice % 2;
    a_share.fetch(s.at.a, g.a, s.a_line, s.a_inner[table], s.a[to]);
    b_share.fetch(s.at.b, g.b, s.b_line, s.b_inner[table], s.b[to]);
  };
  const auto put = [&](int64_t slice) {
    const int to = static_cast<int>((slice - first) % kStages);
    a_share.put(g.a, s.a[to]), b_share.put(g.b, s.b[to]);
  };
  for (int ahead = 0; ahead < kStages - 1; ++ahead) {
    if (threadIdx.x < kSlice && first + ahead < last) inner(first + ahead);
    __syncthreads();
    if (first + ahead < last) {
      fetch(first + ahead);
      put(first + ahead);
    }
    if constexpr (!kHeld) cp_async_commit();
  }
  if (threadIdx.x < kSlice && first + kStages - 1 < last) inner(first + kStages - 1);

  Tile tile;
  for (int64_t slice = first; slice < last; ++slice) {
    if constexpr (!kHeld) cp_async_wait<kStages - 2>();
    __syncthreads();  // the slice is here for all; the one before and its table are no longer read
    if (slice + kStages - 1 < last) fetch(slice + kStages - 1);
    if constexpr (!kHeld) cp_async_commit();
    if (threadIdx.x < kSlice && slice + kStages < last) inner(slice + kStages);
    const int from = static_cast<int>((slice - first) % kStages);
    tile.multiply(s.a[from], s.b[from]);
    if (slice + kStages - 1 < last) put(slice + kStages - 1);
  }
  if constexpr (!kHeld) cp_async_wait<0>();

  const bool is_result = tiling.parts == 1;
  const int64_t m_left = s.at.m - m0, n_left = n_count - n0;
  const auto write = [&](auto* to) {
    const bool gathers = std::is_same_v<decltype(to), T*> && g.after.found != nullptr;
    MomentSums<C> sums;
    tile.for_each(
        [&](int m, int n, auto& values) {
          if (n >= n_left) return;
          const int64_t channel = g.channels_along_m ? m0 + m : s.at.channel + n0 + n;
          store(g, is_result, to + s.c_n[n], s.c_m + m, m_left - m, channel, values);
          int64_t left = gathers ? m_left - m : 0;
          for (const C value : values)
            if (left-- > 0) sums.add(value);
        },
        [&](int n) {
          if (!gathers) return;
          const MomentState<C> moments = joined_lanes<Tile::kFirstLane, Tile::kLastLane>(sums.state());
          sums = MomentSums<C>();
          if (n < n_left && Tile::leads()) *found_at<Tile>(g, s.at, m0, Tile::piece(), n0 + n) = moments;
        });
  };
  if constexpr (std::is_same_v<T, C>)
    write(is_result ? g.c + s.at.c : partial);
  else if (is_result && g.sums == nullptr)
    write(g.c + s.at.c);
  else
    write(is_result ? g.sums + s.at.c : partial);
}

// c = sum over parts in order, one thread an element.
template <class T>
__global__ void add_parts_kernel(const Gemm<T> g, const Tiling tiling, const Compute<T>* partial) {
  const int64_t total = tiling.m * tiling.n * tiling.batches;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < total; i += int64_t(gridDim.x) * blockDim.x) {
    Compute<T> sum[1] = {partial[i]};
    for (int64_t part = 1; part < tiling.parts; ++part) sum[0] += partial[part * total + i];
    const int64_t rest = divide(i, tiling.m), batch = divide(rest, tiling.n);
    const Place m(i - rest * tiling.m, g.m.extent), n(rest - batch * tiling.n, g.n.extent), b(batch, g.batch.extent);
    const int64_t offset[1] = {b.offset(g.c_batch) + n.offset(g.c_n) + m.offset(g.c_m)};
    const int64_t channel = g.channels_along_m ? m.outer : b.outer * g.n.outer + n.outer;
    if (std::is_same_v<T, Compute<T>> || g.sums == nullptr)
      store(g, true, g.c, offset, 1, channel, sum);
    else
      store(g, true, g.sums, offset, 1, channel, sum);
  }
}

// Enough blocks for two an SM of the largest devices (132); the number must not depend on the device, or the bits of a
// sum would. A part keeps at least eight slices, and all parts together take at most 64 MiB.
constexpr int64_t kWantedTiles = 264, kSlicesOfPart = 8, kPartialBytes = int64_t(64) << 20;

template <class Tile, class T>
void run_tiles(const Gemm<T>& g) {
  const int64_t m = g.m.count(), n = g.n.count(), batches = g.batch.count(), results = m * n * batches;
  Tiling tiling{m, n, batches, ceil_div(m, Tile::BM), ceil_div(n, Tile::BN), 1, 0, 0};
  const int64_t tiles = tiling.m_tiles * tiling.n_tiles * batches, slices = ceil_div(g.k.count(), kSlice);
  if (!g.phased && tiles < kWantedTiles) {
    const int64_t fit = kPartialBytes / static_cast<int64_t>(results * sizeof(Compute<T>));
    const int64_t wanted = std::min({ceil_div(kWantedTiles, tiles), slices / kSlicesOfPart, fit});
    if (wanted > 1) {
      tiling.slices_per_part = ceil_div(slices, wanted);
      tiling.parts = ceil_div(slices, tiling.slices_per_part);
    }
  }
  tiling.total = tiles * tiling.parts;
  GK_CHECK(tiling.total <= INT_MAX, "more tiles than a grid has blocks");
  const auto blocks = static_cast<unsigned>(tiling.total);
  if (tiling.parts == 1) {
    Gemm<T> whole = g;
    if (g.after.moments != nullptr)
      whole.after.found = g.after.moments->found(batches / g.batch.outer * tiling.m_tiles * Tile::kPieces);
    return launch({dim3(blocks), dim3(Tile::kThreads)}, gemm_kernel<Tile>, whole, tiling,
                  static_cast<Compute<T>*>(nullptr));
  }
  Scratch<Compute<T>> partial(tiling.parts * results);
  launch({dim3(blocks), dim3(Tile::kThreads)}, gemm_kernel<Tile>, g, tiling, partial.data());
  const auto adders = static_cast<unsigned>(std::min<int64_t>(ceil_div(results, 256), 4096));
  launch({dim3(adders), dim3(256)}, add_parts_kernel<T>, g, tiling, partial.data());
}

// In gemm_tensor.cu and gemm_bfloat16.cu, compiled apart.
template <Precision kPrecision, class T>
void run_on_tensor_cores(const Gemm<T>& g);

}  // namespace gk::cuda
