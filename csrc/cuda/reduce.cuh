// Sums over some axes of strided arrays, in a fixed order and without atomics: the same bits in every run and on every
// device. A block of 256 threads takes a tile of outputs times terms; the threads that lie side by side read cells that
// lie side by side, whether the innermost axis is kept or summed. Where outputs are few, terms are cut into chunks for
// more blocks, whose partial states a second launch of the same kernel joins. What is summed is a Reducer:
//   Running start(output)       what a thread sums into; `output` is the offset of the result
//   add(Running&, offsets)      one more element of the K inputs
//   State state(Running)        what threads join
//   join(State&, State)
//   finish(State, output)
#pragma once

#include <algorithm>
#include <cmath>

#include "launch.cuh"
#include "memory.hpp"
#include "views.cuh"

namespace gk::cuda {

constexpr uint32_t kReduceThreads = 256;
constexpr int64_t kBlocksWanted = 1024;  // of a launch, if chunks can make that many: several for each multiprocessor
constexpr int64_t kTermsPerThread = 16;  // at least, before terms are cut into chunks

struct ReduceTile {
  uint32_t outputs, terms;                 // threads along each; powers of two, their product kReduceThreads
  uint32_t all_outputs, all_terms, chunk;  // extents, and the terms of one block
  bool outputs_side_by_side;
};

template <int K, class R>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(R r, Axes<K + 1> kept, Axes<K> summed, ReduceTile tile, typename R::State* partial) {
  using State = typename R::State;
  GK_SHARED(State[kReduceThreads], states);
  const uint32_t thread = threadIdx.x;
  const uint32_t o = tile.outputs_side_by_side ? thread % tile.outputs : thread / tile.terms;
  const uint32_t t = tile.outputs_side_by_side ? thread / tile.outputs : thread % tile.terms;
  const uint32_t output = blockIdx.x * tile.outputs + o;
  const bool valid = output < tile.all_outputs;
  int64_t at[K + 1];
  kept.offsets(valid ? output : 0, at);
  auto running = r.start(at[K]);
  const uint32_t begin = blockIdx.y * tile.chunk;
  const uint32_t end = begin + tile.chunk < tile.all_terms ? begin + tile.chunk : tile.all_terms;
  if (valid) {
    for (uint32_t term = begin + t; term < end; term += tile.terms) {
      int64_t offset[K];
      summed.offsets(term, offset);
      GK_UNROLL
      for (int k = 0; k < K; ++k) offset[k] += at[k];
      r.add(running, offset);
    }
  }
  State mine = r.state(running);
  const uint32_t slot = o * tile.terms + t;
  states[slot] = mine;
  for (uint32_t step = tile.terms / 2; step > 0; step /= 2) {
    __syncthreads();
    if (t < step) {
      r.join(mine, states[slot + step]);
      states[slot] = mine;
    }
  }
  if (t != 0 || !valid) return;
  if (gridDim.y == 1) {
    r.finish(mine, at[K]);
  } else {
    partial[static_cast<int64_t>(blockIdx.y) * tile.all_outputs + output] = mine;
  }
}

// The second launch: its input are the partial states of the first.
template <class R>
struct JoinPartial {
  using State = typename R::State;
  struct Running {
    State state;
    bool empty;
  };
  R r;
  const State* partial;

  __device__ Running start(int64_t output) const { return {r.state(r.start(output)), true}; }
  __device__ void add(Running& s, const int64_t (&offset)[1]) const {
    if (s.empty) {
      s = {partial[offset[0]], false};
    } else {
      r.join(s.state, partial[offset[0]]);
    }
  }
  __device__ State state(const Running& s) const { return s.state; }
  __device__ void join(State& a, const State& b) const { r.join(a, b); }
  __device__ void finish(const State& s, int64_t output) const { r.finish(s, output); }
};

inline uint32_t power_of_two_from(int64_t n, uint32_t limit) {
  uint32_t p = 1;
  while (p < limit && p < n) p *= 2;
  return p;
}

// kept: offsets of the K inputs and, last, of the output; summed: offsets of the inputs. Both sorted by memory.
template <int K, class R>
void reduce(const R& r, const HostAxes<K + 1>& kept, const HostAxes<K>& summed) {
  const bool outputs_side_by_side =
      summed.size() < kWarpSize ||
      (kept.size() > 1 && std::abs(kept.stride[0][kept.rank - 1]) < std::abs(summed.stride[0][summed.rank - 1]));
  using State = typename R::State;
  const int64_t outputs = kept.size(), terms = summed.size();
  if (outputs == 0) return;
  GK_CHECK(outputs < kMaxIndex && terms < kMaxIndex, "a sum over 2^31 elements or more");
  ReduceTile tile;
  tile.all_outputs = static_cast<uint32_t>(outputs);
  tile.all_terms = static_cast<uint32_t>(terms);
  tile.outputs_side_by_side = outputs_side_by_side;
  if (outputs_side_by_side) {
    tile.terms =
        std::min(power_of_two_from(terms / 4, kReduceThreads), kReduceThreads / power_of_two_from(outputs, kWarpSize));
  } else {
    tile.terms = std::max<uint32_t>(kWarpSize, power_of_two_from(terms / 4, kReduceThreads));
  }
  tile.outputs = kReduceThreads / tile.terms;
  const int64_t tiles = (outputs + tile.outputs - 1) / tile.outputs, least = tile.terms * kTermsPerThread;
  int64_t chunks = std::min((kBlocksWanted + tiles - 1) / tiles, (terms + least - 1) / least);
  chunks = std::max<int64_t>(1, chunks);
  tile.chunk = static_cast<uint32_t>((terms + chunks - 1) / chunks);
  chunks = std::max<int64_t>(1, tile.chunk ? (terms + tile.chunk - 1) / tile.chunk : 1);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(chunks));
  const Scratch<State> partial(chunks > 1 ? chunks * outputs : 0);
  launch({grid, kReduceThreads}, reduce_kernel<K, R>, r, kept.device(), summed.device(), tile, partial.data());
  if (chunks == 1) return;

  HostAxes<2> results;  // partial[chunk][output] -> output
  results.rank = kept.rank;
  for (int64_t i = kept.rank - 1, step = 1; i >= 0; step *= kept.shape[i], --i) {
    results.shape[i] = kept.shape[i];
    results.stride[0][i] = step;
    results.stride[1][i] = kept.stride[K][i];
  }
  HostAxes<1> over_chunks;
  over_chunks.push(chunks, outputs);
  tile.all_terms = tile.chunk = static_cast<uint32_t>(chunks);
  tile.outputs = power_of_two_from(outputs, kWarpSize);
  tile.terms = kReduceThreads / tile.outputs;
  tile.outputs_side_by_side = true;
  launch({dim3(blocks_for(outputs, tile.outputs)), kReduceThreads}, reduce_kernel<1, JoinPartial<R>>,
         JoinPartial<R>{r, partial.data()}, results.device(), over_chunks.device(), tile, partial.data());
}

}  // namespace gk::cuda
