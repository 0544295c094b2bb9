// An epilogue (core/epilogues.inc) on the device: its arithmetic on the values that a thread is about to store.
#pragma once

#include <cmath>

#include "../core/view.hpp"
#include "activation.cuh"
#include "counters.cuh"
#include "moments.cuh"
#include "philox.cuh"

namespace gk::cuda {

// Nothing, unless made by epilogue_of. T is y's, the values are Compute<T> until they are stored.
template <class T>
struct Epilogue {
  const T* y = nullptr;  // an element's distance from it is its number for Philox; nullptr: no epilogue
  const Compute<T>* bias = nullptr;
  int64_t bias_step = 0;
  Compute<T> slope = 1, scale = 1;
  bool drops = false;
  uint32_t threshold = 0;
  uint64_t seed = 0;
  Counter counter{};
  StoredMoments<T>* moments = nullptr;       // on the host: asked for, where a kernel holds them when it stores y
  MomentState<Compute<T>>* found = nullptr;  // on the device: (pieces, channels), of what was stored
};

// For the kernel that this thread queues next; arguments as in core/epilogues.inc.
template <class T>
Epilogue<T> epilogue_of(View<T> y, View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset);

// The same for run(epilogue), which may gather the moments of y.
template <class T, class Run>
void with_moments(View<T> y, View<Compute<T>> mean, View<Compute<T>> variance, Epilogue<T> after, Run run) {
  StoredMoments<T> moments(y.shape[1]);
  after.moments = &moments;
  run(after);
  moments.join(y, mean, variance);
}

// The Philox words of elements first ... first + N - 1, where `first` is a multiple of kAlign: whole blocks are drawn
// and shifted into place, so that no lane of a warp waits for another.
template <int N, int kAlign>
__device__ __forceinline__ void words_of(uint64_t seed, uint64_t block, int64_t first, uint32_t (&word)[N]) {
  constexpr int kBlocks = (N + 4 - kAlign + 3) / 4;
  uint32_t drawn[4 * kBlocks];
  GK_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    const Words w = philox_compact(seed, block + static_cast<uint64_t>(first) / 4 + b);
    GK_UNROLL
    for (int j = 0; j < 4; ++j) drawn[4 * b + j] = w.word[j];
  }
  GK_UNROLL
  for (int step = kAlign; step < 4; step *= 2) {
    GK_UNROLL
    for (int j = 0; j + step < 4 * kBlocks; ++j) drawn[j] = first & step ? drawn[j + step] : drawn[j];
  }
  GK_UNROLL
  for (int j = 0; j < N; ++j) word[j] = drawn[j];
}

// Neighbours in memory from `to` on, which is a multiple of kAlign elements from y's beginning; the channel grows by
// `channel_step` from one to the next.
template <int kAlign, class T, int N>
__device__ __forceinline__ void finish(const Epilogue<T>& e, Compute<T> (&value)[N], const T* to, int64_t channel,
                                       int64_t channel_step) {
  using C = Compute<T>;
  if (e.bias != nullptr) {
    const C* const bias = e.bias + channel * e.bias_step;
    GK_UNROLL
    for (int i = 0; i < N; ++i) value[i] = value[i] + bias[i * channel_step * e.bias_step];
  }
  if (e.slope != C(1)) {
    GK_UNROLL
    for (int i = 0; i < N; ++i) value[i] = leaky_relu(value[i], e.slope);
  }
  if (e.drops) {
    uint32_t word[N];
    words_of<N, kAlign>(e.seed, e.counter.value(), to - e.y, word);
    GK_UNROLL
    for (int i = 0; i < N; ++i) {
      const C v = static_cast<T>(value[i] * e.scale);  // as it is stored: the zeros of T are marked
      value[i] = is_kept(word[i], e.threshold) ? (v == C(0) ? C(-0.0) : v) : C(0);
    }
  }
}

// The gradient at an element before an epilogue, given y after it and the cotangent of y; T is what is computed in.
template <class T>
struct EpilogueGradient {
  T slope, scale;
  bool drops;  // then y marks what was dropped by +0

  EpilogueGradient(double slope_, double p)
      : slope(static_cast<T>(slope_)), scale(dropout_scale<T>(p)), drops(p > 0.0) {}
  __device__ __forceinline__ T operator()(T y, T ct) const {
    if (!drops) return leaky_relu_gate(y, ct, slope);
    const bool dropped = y == T(0) && !std::signbit(y);
    const T v = ct * scale;
    return dropped ? T(0) : (y > T(0) ? v : slope * v);
  }
};

}  // namespace gk::cuda
