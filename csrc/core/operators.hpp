// The pointwise operations by number; gankernels/backends/opcodes.py holds the same names in the same order
// and a test compares the two.
#pragma once

namespace gk {

// clang-format off
#define GK_UNARY_OPS(X)                                                                              \
  X(negate) X(absolute) X(sign) X(exp) X(expm1) X(log) X(log1p) X(sqrt) X(rsqrt) X(reciprocal)       \
  X(square) X(sin) X(cos) X(tanh) X(sigmoid) X(erf) X(floor) X(round)                                \
  X(affine)      /* x*p + q */                                                                       \
  X(power)       /* x^p */                                                                           \
  X(clamp)       /* min(max(x, p), q) */                                                             \
  X(clamp_mask)  /* 1 where p <= x <= q, else 0 */                                                   \
  X(leaky_relu)  /* x > 0 ? x : p*x; relu is p = 0 */                                                \
  X(elu)         /* x > 0 ? x : p*(exp(x) - 1) */                                                    \
  X(softplus)    /* log(1 + exp(p*x))/p, x where p*x > q */

#define GK_BINARY_OPS(X) X(add) X(subtract) X(multiply) X(divide) X(maximum) X(minimum) X(power) X(atan2)

#define GK_COMPARE_OPS(X) X(equal) X(not_equal) X(less) X(less_equal) X(greater) X(greater_equal)
// clang-format on

#define GK_ENUM_ENTRY(name) name,
enum class UnaryOp : int { GK_UNARY_OPS(GK_ENUM_ENTRY) count };
enum class BinaryOp : int { GK_BINARY_OPS(GK_ENUM_ENTRY) count };
enum class CompareOp : int { GK_COMPARE_OPS(GK_ENUM_ENTRY) count };
#undef GK_ENUM_ENTRY

// What is multiplied: `full` as the type does; tf32 and bf16 may round the factors of float32 to 11 and 8 bits, sums
// stay in float32. A backend that has no faster product for one of them computes more precisely.
enum class MatmulPrecision : int { full = 0, tf32 = 1, bf16 = 2 };

}  // namespace gk
