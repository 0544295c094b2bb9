// bfloat16, the upper half of a float: how arrays may be stored on a device that reads and writes them faster so.
// Nothing is computed in it: a kernel of arrays of T computes in Compute<T>, takes and gives what belongs to channels
// as that, and rounds an element when it is stored.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "host_device.hpp"

namespace gk {

struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  // to nearest, ties to even; NaN stays NaN
  GK_HOST_DEVICE explicit bfloat16(float x) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    std::uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<std::uint16_t>(is_nan ? u >> 16 | 0x40u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
#endif
  }
  GK_HOST_DEVICE operator float() const {
    const std::uint32_t u = static_cast<std::uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
  }
};
static_assert(sizeof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16>);

// What a kernel of arrays of T computes in.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, bfloat16>, float, T>;

}  // namespace gk
