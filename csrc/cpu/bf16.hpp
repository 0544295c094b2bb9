// bfloat16 factors: float32 numbers rounded to 8 bits, ties to even, as the products of bf16 kernels take them.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/view.hpp"
#include "isa/bf16.hpp"
#include "scratch.hpp"

namespace gk::cpu {

// The loops over pairs of this processor under the instruction set in use; null where there are none.
const Bf16Table* bf16_table();

// The upper half of the rounded number; a NaN stays one (its quiet bit is set, lest the upper half be an infinity).
inline std::uint16_t bf16_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t quiet = bits | 0x00400000u, nearest = bits + 0x7fffu + (bits >> 16 & 1u);
  return static_cast<std::uint16_t>(((bits & 0x7fffffffu) > 0x7f800000u ? quiet : nearest) >> 16);
}

inline float bf16_rounded(float x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bf16_bits(x)) << 16;
  float rounded;
  std::memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}

// A rounded copy of an array, its axes in the order in which they lie in memory.
class Bf16Copy {
 public:
  explicit Bf16Copy(const View<const float>& x);
  const View<const float>& view() const { return view_; }

 private:
  Scratch<float> memory_;
  View<const float> view_;
};

}  // namespace gk::cpu
