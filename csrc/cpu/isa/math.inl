// Elementary functions as branch-free formulas, so that the compiler vectorises the loops that call them. Only + - * /
// and bit operations in double are used, never a fused multiply-add: every instruction set gives the same bits.
// float functions evaluate in double with shorter series and round once. Reductions and the series of log are those of
// fdlibm (Sun Microsystems, 1993); exp uses the Taylor series of exp(r) - 1 on |r| <= ln(2)/2.

inline uint64_t bits_of(double x) {
  uint64_t u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}
inline double from_bits(uint64_t u) {
  double x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}

constexpr double kLn2Hi = 6.93147180369123816490e-01, kLn2Lo = 1.90821492927058770002e-10;
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, kept in the low bits
constexpr uint64_t kRoundBits = 0x4338000000000000u;

// 2^k for the integer k held in the low bits of t = k + kRound
inline double power_of_two(uint64_t k_bits) { return from_bits((k_bits - kRoundBits + 1023) << 52); }

// exp(r) - 1 for |r| <= 0.347; terms to r^Degree
template <int Degree>
inline double expm1_series(double r) {
  constexpr double c[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                          1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                          1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
  double s = c[Degree - 2];
#pragma GCC unroll 16
  for (int i = Degree - 3; i >= 0; --i) s = s * r + c[i];
  return r + r * r * s;
}

template <int Degree>
inline double exp_series(double x) {
  x = x > 710.0 ? 710.0 : x;
  x = x < -746.0 ? -746.0 : x;
  const double t = x * 1.44269504088896338700 + kRound;
  const double k = t - kRound;
  const double p = expm1_series<Degree>((x - k * kLn2Hi) - k * kLn2Lo);
  const double half = k * 0.5 + kRound;  // in two steps, for results beyond the range of one power of two
  const double first = power_of_two(bits_of(half));
  const double second = power_of_two(kRoundBits + bits_of(t) - bits_of(half));
  return (1.0 + p) * first * second;
}

template <int Degree>
inline double expm1_scaled(double x) {
  x = x > 710.0 ? 710.0 : x;
  x = x < -40.0 ? -40.0 : x;
  const double t = x * 1.44269504088896338700 + kRound;
  const double k = t - kRound;
  const double p = expm1_series<Degree>((x - k * kLn2Hi) - k * kLn2Lo);
  const double half = power_of_two(bits_of(t) - 1);
  const double scaled = 2.0 * (half * p + (half - 0.5));
  return k == 0.0 ? p : scaled;
}

// f = m - 1 with x = m * 2^k, sqrt(1/2) <= m < sqrt(2)
template <bool Short>
inline double log_series(double x) {
  const bool tiny = x < 2.2250738585072014e-308;
  const double scaled = tiny ? x * 18014398509481984.0 : x;
  const uint64_t offset = bits_of(scaled) + (0x3ff0000000000000u - 0x3fe6a09e00000000u);
  const double k =
      from_bits((offset >> 52) | 0x4330000000000000u) - (4503599627370496.0 + 1023.0) - (tiny ? 54.0 : 0.0);
  const double f = from_bits((offset & 0x000fffffffffffffu) + 0x3fe6a09e00000000u) - 1.0;
  const double s = f / (2.0 + f), z = s * s, w = z * z, half_square = 0.5 * f * f;
  const double odd =
      Short ? z * (6.666666666666735130e-01 + w * 2.857142874366239149e-01)
            : z * (6.666666666666735130e-01 +
                   w * (2.857142874366239149e-01 + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
  const double even =
      Short ? w * (3.999999999940941908e-01 + w * 2.222219843214978396e-01)
            : w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
  double y = s * (half_square + (odd + even)) + k * kLn2Lo - half_square + f + k * kLn2Hi;
  y = x < __builtin_inf() ? y : x;  // inf, NaN
  y = x == 0.0 ? -__builtin_inf() : y;
  return x < 0.0 ? __builtin_nan("") : y;
}

template <bool Short>
inline double log1p_series(double x) {
  const double u = 1.0 + x;
  const double lost = (x - (u - 1.0)) / u;  // what rounding 1 + x lost, to first order
  const double y = log_series<Short>(u);
  return (u > 0.0) & (u < __builtin_inf()) ? y + lost : y;
}

inline double copy_sign(double magnitude, double sign) {
  return from_bits(bits_of(magnitude) | (bits_of(sign) & 0x8000000000000000u));
}

template <int Degree>
inline double tanh_series(double x) {
  const double a = __builtin_fabs(x);
  const double e = expm1_scaled<Degree>(2.0 * (a > 22.0 ? 22.0 : a));
  return copy_sign(e / (e + 2.0), x);
}

template <int Degree>
inline double sigmoid_series(double x) {
  const double e = exp_series<Degree>(-__builtin_fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

// sin and cos of 2 pi u for 0 <= u <= 1: the nearest quarter turn is subtracted exactly
inline void sincos_turns(double u, double* sine, double* cosine) {
  const double t = u * 4.0 + kRound;
  const uint64_t quarter = bits_of(t) & 3;
  const double r = (u - (t - kRound) * 0.25) * 6.28318530717958647693, z = r * r;
  const double s = r + r * z *
                           (-1.66666666666666324348e-01 +
                            z * (8.33333333332248946124e-03 +
                                 z * (-1.98412698298579493134e-04 +
                                      z * (2.75573137070700676789e-06 +
                                           z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
  const double c =
      (1.0 - 0.5 * z) + z * z *
                            (4.16666666666666019037e-02 +
                             z * (-1.38888888888741095749e-03 +
                                  z * (2.48015872894767294178e-05 +
                                       z * (-2.75573143513906633035e-07 +
                                            z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  const bool odd = (quarter & 1) != 0;
  const double a = odd ? c : s, b = odd ? s : c;
  *sine = (quarter & 2) != 0 ? -a : a;
  *cosine = ((quarter + 1) & 2) != 0 ? -b : b;
}

constexpr int kDoubleDegree = 13, kFloatDegree = 8;

inline double exp_of(double x) { return exp_series<kDoubleDegree>(x); }
inline float exp_of(float x) { return static_cast<float>(exp_series<kFloatDegree>(x)); }
inline double expm1_of(double x) { return expm1_scaled<kDoubleDegree>(x); }
inline float expm1_of(float x) { return static_cast<float>(expm1_scaled<kFloatDegree>(x)); }
inline double log_of(double x) { return log_series<false>(x); }
inline float log_of(float x) { return static_cast<float>(log_series<true>(x)); }
inline double log1p_of(double x) { return log1p_series<false>(x); }
inline float log1p_of(float x) { return static_cast<float>(log1p_series<true>(x)); }
inline double tanh_of(double x) { return tanh_series<kDoubleDegree>(x); }
inline float tanh_of(float x) { return static_cast<float>(tanh_series<kFloatDegree>(x)); }
inline double sigmoid_of(double x) { return sigmoid_series<kDoubleDegree>(x); }
inline float sigmoid_of(float x) { return static_cast<float>(sigmoid_series<kFloatDegree>(x)); }
inline double sqrt_of(double x) { return __builtin_sqrt(x); }
inline float sqrt_of(float x) { return __builtin_sqrtf(x); }
