// Pointwise operations over contiguous runs. Each operation is a struct with one function `at`; one loop serves them
// all.

inline bool is_plus_zero(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits == 0;
}
inline bool is_plus_zero(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits == 0;
}

#define GK_UNARY(name, expression)           \
  struct Unary_##name {                      \
    template <class T>                       \
    static inline T at(T x, T p, T q) {      \
      return (void)p, (void)q, (expression); \
    }                                        \
  };
GK_UNARY(negate, -x)
GK_UNARY(absolute, x < T(0) ? -x : x + T(0))
GK_UNARY(sign, x > T(0) ? T(1) : (x < T(0) ? T(-1) : x + T(0)))
GK_UNARY(exp, exp_of(x))
GK_UNARY(expm1, expm1_of(x))
GK_UNARY(log, log_of(x))
GK_UNARY(log1p, log1p_of(x))
GK_UNARY(sqrt, sqrt_of(x))
GK_UNARY(rsqrt, T(1) / sqrt_of(x))
GK_UNARY(reciprocal, T(1) / x)
GK_UNARY(square, x* x)
GK_UNARY(sin, T(__builtin_sin(double(x))))
GK_UNARY(cos, T(__builtin_cos(double(x))))
GK_UNARY(tanh, tanh_of(x))
GK_UNARY(sigmoid, sigmoid_of(x))
GK_UNARY(erf, T(__builtin_erf(double(x))))
GK_UNARY(floor, T(__builtin_floor(double(x))))
GK_UNARY(round, T(__builtin_rint(double(x))))
GK_UNARY(affine, x* p + q)
GK_UNARY(cube, x * x * x)
GK_UNARY(power, T(__builtin_pow(double(x), double(p))))
GK_UNARY(clamp, (x < p ? p : x) > q ? q : (x < p ? p : x))
GK_UNARY(clamp_mask, (x >= p) & (x <= q) ? T(1) : T(0))
GK_UNARY(relu, x <= T(0) ? T(0) : x)
GK_UNARY(leaky_relu, x > T(0) ? x : p * x)
#undef GK_UNARY

template <class T, class Op>
void unary_run(const T* __restrict x, T* __restrict y, int64_t n, double p, double q) {
  const T tp = static_cast<T>(p), tq = static_cast<T>(q);
  for (int64_t i = 0; i < n; ++i) y[i] = Op::at(x[i], tp, tq);
}

// The exponent 3 is common and libm's pow is slow; a slope of zero must give 0 at -inf, not NaN.
template <class T>
void power_run(const T* x, T* y, int64_t n, double p, double q) {
  p == 3.0 ? unary_run<T, Unary_cube>(x, y, n, p, q) : unary_run<T, Unary_power>(x, y, n, p, q);
}
template <class T>
void leaky_relu_run(const T* x, T* y, int64_t n, double p, double q) {
  p == 0.0 ? unary_run<T, Unary_relu>(x, y, n, p, q) : unary_run<T, Unary_leaky_relu>(x, y, n, p, q);
}
template <class T>
void elu_run(const T* __restrict x, T* __restrict y, int64_t n, double p, double) {
  const T tp = static_cast<T>(p);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > T(0) ? x[i] : tp * expm1_of(x[i]);
}
// log(1 + exp(z))/p with z = p*x, as (max(z, 0) + log1p(exp(-|z|)))/p. In two loops: GCC does not vectorise them as
// one.
template <class T>
void softplus_run(const T* __restrict x, T* __restrict y, int64_t n, double p, double q) {
  constexpr int degree = sizeof(T) == 4 ? kFloatDegree : kDoubleDegree;
  constexpr int64_t block = 256;
  double e[block];
  for (int64_t first = 0; first < n; first += block) {
    const int64_t count = n - first < block ? n - first : block;
    for (int64_t i = 0; i < count; ++i)
      e[i] = exp_series<degree>(-__builtin_fabs(p * static_cast<double>(x[first + i])));
    for (int64_t i = 0; i < count; ++i) {
      const double v = static_cast<double>(x[first + i]), z = p * v;
      const double soft = ((z > 0.0 ? z : 0.0) + log1p_series<sizeof(T) == 4>(e[i])) / p;
      y[first + i] = static_cast<T>(z > q ? v : soft);
    }
  }
}

#define GK_BINARY(name, expression) \
  struct Binary_##name {            \
    template <class T>              \
    static inline T at(T a, T b) {  \
      return (expression);          \
    }                               \
  };
GK_BINARY(add, a + b)
GK_BINARY(subtract, a - b)
GK_BINARY(multiply, a* b)
GK_BINARY(divide, a / b)
GK_BINARY(maximum, (a > b) | (a != a) ? a : b)
GK_BINARY(minimum, (a < b) | (a != a) ? a : b)
GK_BINARY(power, T(__builtin_pow(double(a), double(b))))
GK_BINARY(atan2, T(__builtin_atan2(double(a), double(b))))
#undef GK_BINARY

template <class T, class Op, Operands kind>
void binary_run(const T* __restrict a, const T* __restrict b, T* __restrict y, int64_t n) {
  if (kind == Operands::both_vary) {
    for (int64_t i = 0; i < n; ++i) y[i] = Op::at(a[i], b[i]);
  } else if (kind == Operands::right_constant) {
    const T c = *b;
    for (int64_t i = 0; i < n; ++i) y[i] = Op::at(a[i], c);
  } else {
    const T c = *a;
    for (int64_t i = 0; i < n; ++i) y[i] = Op::at(c, b[i]);
  }
}

#define GK_COMPARE(name, sign)                                                                     \
  struct Compare_##name {                                                                          \
    template <class T>                                                                             \
    static void run(const T* __restrict a, const T* __restrict b, bool* __restrict y, int64_t n) { \
      for (int64_t i = 0; i < n; ++i) y[i] = a[i] sign b[i];                                       \
    }                                                                                              \
  };
GK_COMPARE(equal, ==)
GK_COMPARE(not_equal, !=)
GK_COMPARE(less, <)
GK_COMPARE(less_equal, <=)
GK_COMPARE(greater, >)
GK_COMPARE(greater_equal, >=)
#undef GK_COMPARE

// As with leaky_relu, a slope of zero is a plain zero.
template <class T>
void gate_run(const T* __restrict reference, const T* __restrict x, T* __restrict y, int64_t n, double slope) {
  const T s = static_cast<T>(slope);
  if (slope == 0.0) {
    for (int64_t i = 0; i < n; ++i) y[i] = reference[i] > T(0) ? x[i] : T(0);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = reference[i] > T(0) ? x[i] : s * x[i];
  }
}

// y = act(y + bias) in place, act as (leaky) ReLU; a slope of 1 is no activation. One bias for all, or one each.
template <class T, class F>
void bias_act_loop(T* y, int64_t n, double slope, F&& bias) {
  const T s = static_cast<T>(slope);
  if (slope == 1.0) {
    for (int64_t i = 0; i < n; ++i) y[i] = y[i] + bias(i);
  } else if (slope == 0.0) {
    for (int64_t i = 0; i < n; ++i) y[i] = Unary_relu::at(y[i] + bias(i), T(0), T(0));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = Unary_leaky_relu::at(y[i] + bias(i), s, T(0));
  }
}
template <class T>
void bias_act_run(T* y, T bias, int64_t n, double slope) {
  bias_act_loop(y, n, slope, [bias](int64_t) { return bias; });
}
template <class T>
void bias_act_each_run(T* __restrict y, const T* __restrict bias, int64_t n, double slope) {
  bias_act_loop(y, n, slope, [bias](int64_t i) { return bias[i]; });
}

// The gate of an activation and a dropout whose marks are in y: +0 was dropped (dropout_marked_run).
template <class T>
void gate_marked_run(const T* __restrict y, const T* __restrict x, T* __restrict gx, int64_t n, double slope,
                     double scale) {
  const T s = static_cast<T>(slope), keep = static_cast<T>(scale);
  for (int64_t i = 0; i < n; ++i) {
    const T v = x[i] * keep, gated = y[i] > T(0) ? v : s * v;
    gx[i] = is_plus_zero(y[i]) ? T(0) : gated;
  }
}

// The condition is read as bytes, which the vectoriser knows, unlike bool.
template <class T>
void select_run(const bool* __restrict condition, const T* __restrict a, const T* __restrict b, T* __restrict y,
                int64_t n) {
  const unsigned char* __restrict chosen = reinterpret_cast<const unsigned char*>(condition);
  for (int64_t i = 0; i < n; ++i) {
    const T u = a[i], v = b[i];
    y[i] = chosen[i] != 0 ? u : v;
  }
}
