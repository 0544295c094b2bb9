// What device code is written with: CUDA as it is, plus a few wrappers whose bodies differ between nvcc and the
// emulator (emulator/model.hpp). Rules that the sources keep so that both give the same bits: a*b + c is not fused
// unless written multiply_add (nvcc runs with -fmad=false), arrays in shared memory come from GK_SHARED or
// dynamic_shared, and 16-byte accesses go through load_pack and store_pack.
#pragma once

#include <cstdint>

#include "../core/bfloat16.hpp"

#if defined(GK_EMULATED)
#include "emulator/model.hpp"
#else
#include <cuda_runtime.h>
#endif

#if defined(__CUDACC__)
#define GK_UNROLL _Pragma("unroll")
#define GK_NO_UNROLL _Pragma("unroll 1")
#else
#define GK_UNROLL _Pragma("GCC unroll 32")
#define GK_NO_UNROLL _Pragma("GCC unroll 1")
#endif

// GK_SHARED(float[32][33], tile); declares an array that the threads of a block share, aligned to 16 bytes.
#if defined(GK_EMULATED)
#define GK_SHARED(Type, name)        \
  using name##_t = Type;             \
  static const char name##_site = 0; \
  auto& name = *static_cast<name##_t*>(::gk::emulator::static_shared(&name##_site, sizeof(name##_t)))
#else
#define GK_SHARED(Type, name) \
  using name##_t = Type;      \
  __shared__ __align__(16) name##_t name
#endif

namespace gk::cuda {

using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;

#if !defined(GK_EMULATED)
extern __shared__ __align__(16) unsigned char gk_dynamic_shared_memory[];
#endif

// The bytes that the launch asked for.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(GK_EMULATED)
  return reinterpret_cast<T*>(emulator::dynamic_shared());
#else
  return reinterpret_cast<T*>(gk_dynamic_shared_memory);
#endif
}

// a*b + c with one rounding
__device__ __forceinline__ float multiply_add(float a, float b, float c) {
#if defined(GK_EMULATED)
  return __builtin_fmaf(a, b, c);
#else
  return fmaf(a, b, c);
#endif
}
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
#if defined(GK_EMULATED)
  return __builtin_fma(a, b, c);
#else
  return fma(a, b, c);
#endif
}

// ---- 16 bytes at once --------------------------------------------------------------------------------------------
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};
// Elements of one, or fewer where a thread has fewer.
template <class T, int kAtMost = 16>
constexpr int kPackSize = 16 / static_cast<int>(sizeof(T)) < kAtMost ? 16 / static_cast<int>(sizeof(T)) : kAtMost;

// `p` must be aligned to the pack: sizeof(T) * N bytes.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  static_assert(sizeof(T) * N <= 16);
#if defined(GK_EMULATED)
  emulator::check_access(p, sizeof(T) * N, sizeof(T) * N, false);
#endif
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& pack) {
  static_assert(sizeof(T) * N <= 16);
#if defined(GK_EMULATED)
  emulator::check_access(p, sizeof(T) * N, sizeof(T) * N, true);
#endif
  *reinterpret_cast<Pack<T, N>*>(p) = pack;
}

// Two of core/bfloat16.hpp in the halves of a word, the first in the low one, as the tensor core reads them.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t u;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
  return u;
#else
  return static_cast<uint32_t>(bfloat16(low).bits) | static_cast<uint32_t>(bfloat16(high).bits) << 16;
#endif
}

// ---- a value from every lane of a full warp; all lanes get the same bits -------------------------------------------
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  GK_UNROLL
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  return value;
}
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  GK_UNROLL
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kFullMask, value, step);
    value = other > value || other != other ? other : value;  // NaN wins
  }
  return value;
}

}  // namespace gk::cuda
