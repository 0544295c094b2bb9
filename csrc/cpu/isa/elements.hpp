// The inner loops that exist once per instruction set, as a table of functions over contiguous runs.
// No function is defined here: the per-ISA files include this header.
#pragma once

#include <cstdint>

#include "../../core/operators.hpp"
#include "../../core/optim_factors.hpp"
#include "../../core/philox.hpp"

namespace gk::cpu {

using std::int32_t;
using std::int64_t;
using std::uint32_t;
using std::uint64_t;

enum class Operands : int { both_vary = 0, right_constant = 1, left_constant = 2, count };

// What stands between a normalisation and its cotangent: nothing, (leaky) ReLU, or with it a dropout that left marks.
enum class Gate : int { none = 0, sign, mark, count };

// Rows of n elements of at most kNormChannels channels, which begin so many elements apart.
inline constexpr int64_t kNormChannels = 32;
struct NormTile {
  int64_t channels, rows, n;
};
template <class T>
struct NormRows {
  T* data;
  int64_t row, channel;

  T* at(int64_t r, int64_t c) const { return data + r * row + c * channel; }
};

// What was normalised, what came of it (if there is a gate), the cotangents of that, and the channels' means.
template <class T>
struct NormOperands {
  NormRows<const T> x, y, ct;
  const double* mean;
  double slope, scale;  // of the gate
};

// Two numbers of a channel: mean and sum (x - mean)^2; or of gated cotangents v, sum v and sum v*(x - mean).
struct NormSums {
  double first, second;
};
struct NormFactors {
  double ct, x, constant;
};

// p, q and other scalars arrive as double and are rounded to T once per run.
template <class T>
struct ElementTable {
  void (*unary[static_cast<int>(UnaryOp::count)])(const T* x, T* y, int64_t n, double p, double q);
  void (*binary[static_cast<int>(BinaryOp::count)][static_cast<int>(Operands::count)])(const T* a, const T* b, T* y,
                                                                                       int64_t n);
  void (*compare[static_cast<int>(CompareOp::count)])(const T* a, const T* b, bool* y, int64_t n);
  void (*gate)(const T* reference, const T* x, T* y, int64_t n, double slope);
  void (*bias_act)(T* y, T bias, int64_t n, double slope);
  void (*bias_act_each)(T* y, const T* bias, int64_t n, double slope);
  void (*gate_marked)(const T* y, const T* x, T* gx, int64_t n, double slope, double scale);
  void (*select)(const bool* condition, const T* a, const T* b, T* y, int64_t n);

  // reductions: accumulated in double over fixed lanes
  double (*sum)(const T* x, int64_t n);
  void (*add_rows)(const T* x, int64_t rows, int64_t row_stride, int64_t n, double* total);
  void (*moments)(const NormTile& tile, const NormRows<const T>& x, NormSums* moments);
  void (*norm_sums[static_cast<int>(Gate::count)])(const NormTile& tile, const NormOperands<T>& operands,
                                                   NormSums* sums);
  T (*maximum)(const T* x, int64_t n);                        // n >= 1; NaN if any
  double (*exp_minus)(const T* x, T* y, int64_t n, T shift);  // y = exp(x - shift); the sum
  double (*sum_exp_minus)(const T* x, int64_t n, T shift);    // the sum alone
  void (*divide_by)(T* y, int64_t n, T divisor);
  // to = factor.ct*v + factor.x*(x - mean) + factor.constant
  void (*norm_gradient[static_cast<int>(Gate::count)])(const NormTile& tile, const NormOperands<T>& operands,
                                                       const NormFactors* factors, const NormRows<T>& to);

  // random: n elements that start at word 0 of `block`; dropout keeps where the 24-bit uniform >= threshold
  void (*uniform)(T* y, int64_t n, uint64_t seed, uint64_t block);
  void (*normal)(T* y, int64_t n, uint64_t seed, uint64_t block);
  void (*dropout)(const T* x, T* y, int64_t n, uint32_t threshold, double scale, uint64_t seed, uint64_t block);
  void (*dropout_marked)(T* y, int64_t n, uint32_t threshold, double scale, uint64_t seed, uint64_t block);

  // windows: one tap of n outputs, whose cells lie `step` apart
  void (*max_tap)(const T* x, int64_t step, int64_t n, int32_t tap, T* best, int32_t* taps);
  void (*add_tap)(const T* x, int64_t step, int64_t n, double* total);
  void (*spread_tap)(const T* y, T* x, int64_t step, int64_t n);
  void (*repeat)(const T* x, T* y, int64_t n, int64_t factor);  // y[i*factor + j] = x[i]

  void (*sgd)(T* p, const T* g, T* buffer, int64_t n, const SgdFactors<T>& f);
  void (*adam)(T* p, const T* g, T* m, T* v, int64_t n, const AdamFactors<T>& f);
  void (*rmsprop)(T* p, const T* g, T* v, T* buffer, T* grad_avg, int64_t n, const RmspropFactors<T>& f);
  void (*lerp)(T* a, const T* b, int64_t n, const LerpFactors<T>& f);
};

}  // namespace gk::cpu
