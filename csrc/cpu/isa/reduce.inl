// Reductions of contiguous runs: 16 fixed lanes of double, the same on every instruction set, added up as a tree.

constexpr int kLanes = GK_VECTOR_BYTES / sizeof(double), kGroups = 16 / kLanes;
constexpr int64_t kBlock = 16;  // elements added at once
typedef double Lanes __attribute__((vector_size(GK_VECTOR_BYTES)));

template <class T>
struct PackOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};

#define GK_LOAD(T, lanes, pointer)                   \
  Lanes lanes;                                       \
  {                                                  \
    typename PackOf<T>::type pack;                   \
    __builtin_memcpy(&pack, (pointer), sizeof pack); \
    lanes = __builtin_convertvector(pack, Lanes);    \
  }

inline double add_lanes(const Lanes* group) {
  double t[kBlock];
  __builtin_memcpy(t, group, sizeof t);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) t[i] += t[i + width];
  return t[0];
}

// At most 1024 elements: 64 additions a lane, then 4 levels, then the tail of up to 15 elements.
template <class T>
inline double sum_block(const T* x, int64_t n) {
  Lanes group[kGroups] = {};
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (int g = 0; g < kGroups; ++g) {
      GK_LOAD(T, v, x + i + g * kLanes)
      group[g] += v;
    }
  }
  double tail = 0.0;
  for (; i < n; ++i) tail += static_cast<double>(x[i]);
  return add_lanes(group) + tail;
}

template <class T>
double sum_run(const T* x, int64_t n) {
  constexpr int64_t block = 1024;
  if (n <= block) return sum_block(x, n);
  const int64_t half = (n / 2 + block - 1) / block * block;
  return sum_run(x, half) + sum_run(x + half, n - half);
}

template <class T>
void add_rows_run(const T* __restrict x, int64_t rows, int64_t row_stride, int64_t n, double* __restrict total) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * row_stride;
    for (int64_t i = 0; i < n; ++i) total[i] += static_cast<double>(row[i]);
  }
}

// Two passes over a run that fits the first cache; the second also removes the rounding error of the mean.
template <class T>
void moments_run(const T* x, int64_t n, double* mean, double* square_sum) {
  const double m = sum_run(x, n) / static_cast<double>(n);
  Lanes first[kGroups] = {}, second[kGroups] = {};
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (int g = 0; g < kGroups; ++g) {
      GK_LOAD(T, v, x + i + g * kLanes)
      v -= m;
      first[g] += v;
      second[g] += v * v;
    }
  }
  double tail_first = 0.0, tail_second = 0.0;
  for (; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - m;
    tail_first += d;
    tail_second += d * d;
  }
  const double rest = add_lanes(first) + tail_first, shift = rest / static_cast<double>(n);
  *mean = m + shift;
  *square_sum = (add_lanes(second) + tail_second) - rest * shift;
}

template <class T>
void centred_sums_run(const T* x, const T* ct, int64_t n, double mean, double* sum_ct, double* sum_ct_x) {
  Lanes first[kGroups] = {}, second[kGroups] = {};
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    for (int g = 0; g < kGroups; ++g) {
      GK_LOAD(T, v, x + i + g * kLanes)
      GK_LOAD(T, c, ct + i + g * kLanes)
      first[g] += c;
      second[g] += c * (v - mean);
    }
  }
  double tail_first = 0.0, tail_second = 0.0;
  for (; i < n; ++i) {
    tail_first += static_cast<double>(ct[i]);
    tail_second += static_cast<double>(ct[i]) * (static_cast<double>(x[i]) - mean);
  }
  *sum_ct = add_lanes(first) + tail_first;
  *sum_ct_x = add_lanes(second) + tail_second;
}

template <class T>
void batch_norm_gradient_run(const T* __restrict x, const T* __restrict ct, T* __restrict gx, int64_t n, double mean,
                             double a, double b, double c) {
  const T m = static_cast<T>(mean), ta = static_cast<T>(a), tb = static_cast<T>(b), tc = static_cast<T>(c);
  for (int64_t i = 0; i < n; ++i) gx[i] = ta * ct[i] + (tb * (x[i] - m) + tc);
}

template <class T>
T maximum_run(const T* x, int64_t n) {
  constexpr int64_t lanes = 64;
  T best[lanes];
  for (int64_t j = 0; j < lanes; ++j) best[j] = x[0];
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = 0; j < lanes; ++j) best[j] = (x[i + j] > best[j]) | (x[i + j] != x[i + j]) ? x[i + j] : best[j];
  T y = x[0];
  if (i > 0)
    for (int64_t j = 0; j < lanes; ++j) y = (best[j] > y) | (best[j] != best[j]) ? best[j] : y;
  for (; i < n; ++i) y = (x[i] > y) | (x[i] != x[i]) ? x[i] : y;
  return y;
}

template <class T>
double exp_minus_run(const T* __restrict x, T* __restrict y, int64_t n, T shift) {
  for (int64_t i = 0; i < n; ++i) y[i] = exp_of(x[i] - shift);
  return sum_run(y, n);
}

template <class T>
double sum_exp_minus_run(const T* x, int64_t n, T shift) {
  constexpr int64_t block = 256;
  T e[block];
  double total = 0.0;
  for (int64_t i = 0; i < n; i += block) total += exp_minus_run(x + i, e, n - i < block ? n - i : block, shift);
  return total;
}
template <class T>
void divide_by_run(T* y, int64_t n, T divisor) {
  for (int64_t i = 0; i < n; ++i) y[i] /= divisor;
}
#undef GK_LOAD
