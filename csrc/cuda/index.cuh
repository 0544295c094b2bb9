// Arithmetic of indices on the device.
#pragma once

#include "gemm.hpp"
#include "launch.cuh"

namespace gk::cuda {

// 64-bit division costs five times a 32-bit one, and almost no index needs it.
inline __device__ int64_t divide(int64_t i, int64_t by) {
  if (((i | by) >> 32) == 0) return static_cast<uint32_t>(i) / static_cast<uint32_t>(by);
  return i / by;
}

// The taps of one axis that touch cell q: numbers first + i*axis.every for i < count, read position - i*axis.back.
struct PhaseTaps {
  int64_t lines;  // cells q, q + stride, ... of the axis
  int64_t first = 0, count = 0, position = 0;
};

inline __device__ PhaseTaps phase_taps(const PhaseAxis& axis, int64_t q) {
  const int64_t from = q + axis.pad;
  if (axis.stride == 1) return {axis.cells - q, 0, axis.kernel, from};
  PhaseTaps found{(axis.cells - q + axis.stride - 1) / axis.stride};
  int64_t rest = from % axis.stride;
  if (rest < 0) rest += axis.stride;
  if (rest % axis.divisor != 0) return found;
  const int64_t first = rest / axis.divisor * axis.inverse % axis.every;
  if (first >= axis.kernel) return found;
  found.first = first;
  found.count = (axis.kernel - 1 - first) / axis.every + 1;
  found.position = (from - axis.dilation * first) / axis.stride;
  return found;
}

}  // namespace gk::cuda
