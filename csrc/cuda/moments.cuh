// Moments of the channels of an array. A thread sums differences from its first element, so a large mean costs no
// digits; what threads, blocks and launches found is joined by the formula of Chan, Golub, LeVeque (1979), in a fixed
// order.
#pragma once

#include <optional>

#include "../core/view.hpp"
#include "device.cuh"
#include "memory.hpp"

namespace gk::cuda {

template <class S>
struct MomentState {
  S count, mean, square_sum;

  __device__ __forceinline__ void join(const MomentState& b) {
    const S total = count + b.count;
    if (total == S(0)) return;
    const S step = b.mean - mean, share = b.count / total;
    mean += step * share;
    square_sum += b.square_sum + step * step * (count * share);
    count = total;
  }
};

template <class S>
struct MomentSums {
  S count = 0, shift = 0, sum = 0, square_sum = 0;

  __device__ __forceinline__ void add(S v) {
    if (count == S(0)) shift = v;
    const S d = v - shift;
    count += S(1);
    sum += d;
    square_sum = multiply_add(d, d, square_sum);
  }
  __device__ __forceinline__ MomentState<S> state() const {
    if (count == S(0)) return {0, 0, 0};
    const S d = sum / count;
    return {count, shift + d, square_sum - sum * d};
  }
};

// What the lanes found whose numbers differ in the bits from kFirst to kLast alone; the lowest of them has the result.
template <int kFirst, int kLast, class S>
__device__ __forceinline__ MomentState<S> joined_lanes(MomentState<S> mine) {
  GK_UNROLL
  for (int step = kFirst; step <= kLast; step *= 2)
    mine.join({__shfl_xor_sync(kFullMask, mine.count, step), __shfl_xor_sync(kFullMask, mine.mean, step),
               __shfl_xor_sync(kFullMask, mine.square_sum, step)});
  return mine;
}

// Of the output of a kernel that may gather them where it stores its results, piece by piece of every channel.
template <class T>
class StoredMoments {
 public:
  explicit StoredMoments(int64_t channels) : channels_(channels) {}

  // found(pieces, channels), all of which the kernel that is queued next fills in.
  MomentState<Compute<T>>* found(int64_t pieces);
  // mean(C), variance(C) of y(N, C, ...), contiguous: from what was found, else in a pass over y.
  void join(View<T> y, View<Compute<T>> mean, View<Compute<T>> variance) const;

 private:
  int64_t channels_, pieces_ = 0;
  std::optional<Scratch<MomentState<Compute<T>>>> found_;
};

}  // namespace gk::cuda
