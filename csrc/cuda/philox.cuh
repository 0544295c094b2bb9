// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC'11) on the device.
#pragma once

#include <cmath>

#include "../core/philox.hpp"
#include "device.cuh"

namespace gk::cuda {

struct Words {
  uint32_t word[4];
};

struct Philox {
  uint32_t c0, c1, c2 = 0, c3 = 0, k0, k1;

  __device__ __forceinline__ Philox(uint64_t seed, uint64_t block)
      : c0(static_cast<uint32_t>(block)),
        c1(static_cast<uint32_t>(block >> 32)),
        k0(static_cast<uint32_t>(seed)),
        k1(static_cast<uint32_t>(seed >> 32)) {}

  __device__ __forceinline__ void round() {
    const uint32_t a_high = __umulhi(c0, kPhiloxA), a_low = c0 * kPhiloxA;
    const uint32_t b_high = __umulhi(c2, kPhiloxB), b_low = c2 * kPhiloxB;
    c0 = b_high ^ c1 ^ k0;
    c2 = a_high ^ c3 ^ k1;
    c1 = b_low;
    c3 = a_low;
    k0 += kWeylA;
    k1 += kWeylB;
  }
};

__device__ __forceinline__ Words philox(uint64_t seed, uint64_t block) {
  Philox state(seed, block);
  GK_UNROLL
  for (int i = 0; i < kPhiloxRounds; ++i) state.round();
  return {{state.c0, state.c1, state.c2, state.c3}};
}

// The same in a tenth of the code, for the unrolled stores of large kernels.
__device__ __forceinline__ Words philox_compact(uint64_t seed, uint64_t block) {
  Philox state(seed, block);
  GK_NO_UNROLL
  for (int i = 0; i < kPhiloxRounds; ++i) state.round();
  return {{state.c0, state.c1, state.c2, state.c3}};
}

// ---- dropout: an element is kept where the float uniform of its word is at least p
// ----------------------------------- That comparison, exactly, as one of 24-bit integers.
inline uint32_t dropout_threshold(double p) { return static_cast<uint32_t>(std::ceil(p * 16777216.0)); }
template <class T>
T dropout_scale(double p) {
  return static_cast<T>(p < 1.0 ? 1.0 / (1.0 - p) : 0.0);
}
__device__ __forceinline__ bool is_kept(uint32_t word, uint32_t threshold) { return (word >> 8) >= threshold; }

}  // namespace gk::cuda
