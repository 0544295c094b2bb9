// The tiles on tensor cores: the widest that wastes no more of n than it saves.
#pragma once

#include "gemm.cuh"

namespace gk::cuda {

template <Precision kPrecision, class T>
void run_on_tensor_cores(const Gemm<T>& g) {
  const int64_t n = g.n.count();
  if (n <= 16) return run_tiles<MmaTile<T, 128, 16, kPrecision>>(g);
  if (n <= 32) return run_tiles<MmaTile<T, 128, 32, kPrecision>>(g);
  if (n <= 48 || (n > 64 && n <= 96)) return run_tiles<MmaTile<T, 128, 48, kPrecision>>(g);
  return run_tiles<MmaTile<T, 128, 64, kPrecision>>(g);
}

}  // namespace gk::cuda
