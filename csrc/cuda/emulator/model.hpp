// The CUDA names that kernels use, for a plain C++ compiler. Everything with an effect is a call into machine.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "machine.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __constant__

#define threadIdx (::gk::emulator::thread_index())
#define blockIdx (::gk::emulator::block_index())
#define blockDim (::gk::emulator::block_extent())
#define gridDim (::gk::emulator::grid_extent())

#define __syncthreads() ::gk::emulator::block_barrier(__FILE__, __LINE__)
#define GK_EMULATED_WARP(function, ...) ::gk::emulator::function(__FILE__, __LINE__, __VA_ARGS__)
#define __syncwarp(...) ::gk::emulator::WarpSite{__FILE__, __LINE__}.meet(__VA_ARGS__)
#define __shfl_sync(...) GK_EMULATED_WARP(shuffle, __VA_ARGS__)
#define __shfl_xor_sync(...) GK_EMULATED_WARP(shuffle_xor, __VA_ARGS__)
#define __shfl_down_sync(...) GK_EMULATED_WARP(shuffle_down, __VA_ARGS__)
#define __shfl_up_sync(...) GK_EMULATED_WARP(shuffle_up, __VA_ARGS__)
#define __ballot_sync(...) GK_EMULATED_WARP(ballot, __VA_ARGS__)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __all_sync(mask, predicate) (__ballot_sync(mask, !(predicate)) == 0)
#define __match_any_sync(...) GK_EMULATED_WARP(match_any, __VA_ARGS__)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace gk::emulator {

constexpr uint32_t kFullWarp = 0xffffffffu;

struct WarpSite {
  const char* file;
  int line;
  void meet(uint32_t mask = kFullWarp) const { warp_barrier(mask, file, line); }
};

template <class T>
T shuffle(const char* file, int line, uint32_t mask, T value, int from, int width = 32) {
  static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable_v<T>);
  const int first = static_cast<int>(lane()) & ~(width - 1);
  T result;
  exchange(mask, &value, &result, sizeof(T), static_cast<unsigned>(first + (from & (width - 1))), file, line);
  return result;
}
template <class T>
T shuffle_xor(const char* file, int line, uint32_t mask, T value, int by, int width = 32) {
  const int within = static_cast<int>(lane()) & (width - 1), from = within ^ by;
  return shuffle(file, line, mask, value, from < width ? from : within, width);
}
template <class T>
T shuffle_down(const char* file, int line, uint32_t mask, T value, unsigned by, int width = 32) {
  const int within = static_cast<int>(lane()) & (width - 1), from = within + static_cast<int>(by);
  return shuffle(file, line, mask, value, from < width ? from : within, width);
}
template <class T>
T shuffle_up(const char* file, int line, uint32_t mask, T value, unsigned by, int width = 32) {
  const int within = static_cast<int>(lane()) & (width - 1), from = within - static_cast<int>(by);
  return shuffle(file, line, mask, value, from >= 0 ? from : within, width);
}
template <class P>
uint32_t ballot(const char* file, int line, uint32_t mask, P predicate) {
  const uint32_t vote = predicate ? 1 : 0;
  uint32_t votes[kWarp], result = 0;
  exchange_all(mask, &vote, votes, sizeof vote, file, line);
  for (unsigned i = 0; i < kWarp; ++i)
    if (mask >> i & 1 && votes[i]) result |= 1u << i;
  return result;
}
template <class T>
uint32_t match_any(const char* file, int line, uint32_t mask, T value) {
  T values[kWarp];
  uint32_t result = 0;
  exchange_all(mask, &value, values, sizeof value, file, line);
  for (unsigned i = 0; i < kWarp; ++i)
    if (mask >> i & 1 && values[i] == value) result |= 1u << i;
  return result;
}

}  // namespace gk::emulator

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(uint64_t(a) * b >> 32); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline uint32_t __float_as_uint(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}
inline float __uint_as_float(uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospi(double x, double* s, double* c) {
  const double turn = x - 2.0 * std::floor(0.5 * x);
  *s = std::sin(turn * 3.14159265358979323846);
  *c = std::cos(turn * 3.14159265358979323846);
}
inline void sincospif(float x, float* s, float* c) {
  double sine, cosine;
  sincospi(x, &sine, &cosine);
  *s = static_cast<float>(sine);
  *c = static_cast<float>(cosine);
}
