// The activations that more than one kernel applies, and their gates: formulas as in csrc/cpu/isa/pointwise.inl.
#pragma once

#include "device.cuh"

namespace gk::cuda {

template <class T>
__device__ __forceinline__ T leaky_relu(T x, T slope) {
  if (slope == T(0)) return x <= T(0) ? T(0) : x;  // 0 at -inf, not NaN
  return x > T(0) ? x : slope * x;
}

// The derivative at `reference` times x; as above, a slope of zero is a plain zero.
template <class T>
__device__ __forceinline__ T leaky_relu_gate(T reference, T x, T slope) {
  return reference > T(0) ? x : (slope == T(0) ? T(0) : slope * x);
}

}  // namespace gk::cuda
