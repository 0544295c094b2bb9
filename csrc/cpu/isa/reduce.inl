// Reductions of contiguous runs: 16 fixed lanes of double, the same on every instruction set, added up as a tree.

constexpr int kLanes = GK_VECTOR_BYTES / sizeof(double), kGroups = 16 / kLanes;
constexpr int64_t kBlock = 16;  // elements added at once
typedef double Lanes __attribute__((vector_size(GK_VECTOR_BYTES)));

template <class T>
struct PackOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
inline auto is_plus_zero(PackOf<float>::type x) {
  typedef int32_t Bits __attribute__((vector_size(kLanes * sizeof(int32_t))));
  return reinterpret_cast<Bits>(x) == 0;
}
inline auto is_plus_zero(PackOf<double>::type x) {
  typedef int64_t Bits __attribute__((vector_size(kLanes * sizeof(int64_t))));
  return reinterpret_cast<Bits>(x) == 0;
}

#define GK_LOAD(T, lanes, pointer)                   \
  Lanes lanes;                                       \
  {                                                  \
    typename PackOf<T>::type pack;                   \
    __builtin_memcpy(&pack, (pointer), sizeof pack); \
    lanes = __builtin_convertvector(pack, Lanes);    \
  }

inline double add_lanes(const void* lanes) {
  double t[kBlock];
  __builtin_memcpy(t, lanes, sizeof t);
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

// The elements of row r of channel c, in the order (r, c), where they begin.
template <class F>
inline void for_rows(const NormTile& tile, F&& row) {
  for (int64_t r = 0; r < tile.rows; ++r)
    for (int64_t c = 0; c < tile.channels; ++c) row(r, c);
}

// From an element to the one that is fetched into the cache while it is worked on: in the row after it, which lies in
// another page, so that the processor does not foresee it; or a page ahead in a single row.
inline int64_t elements_ahead(const NormTile& tile, int64_t r, int64_t row) {
  return r + 1 < tile.rows ? row : tile.rows == 1 ? 1024 : 0;
}

// A channel's two sums, in lanes.
struct NormLanes {
  double first[kBlock], second[kBlock];

  // vectors(i, &a, &b) adds the terms at i on, tail(i, &a, &b) those at i alone.
  template <class Vectors, class Tail>
  inline void add(int64_t n, Vectors&& vectors, Tail&& tail) {
    Lanes a[kGroups], b[kGroups];
    __builtin_memcpy(a, first, sizeof a);
    __builtin_memcpy(b, second, sizeof b);
    int64_t i = 0;
    for (; i + kBlock <= n; i += kBlock)
      for (int g = 0; g < kGroups; ++g) vectors(i + g * kLanes, &a[g], &b[g]);
    __builtin_memcpy(first, a, sizeof a);
    __builtin_memcpy(second, b, sizeof b);
    for (int64_t j = 0; i < n; ++i, ++j) tail(i, &first[j], &second[j]);
  }
};

// Differences from a channel's first element are summed: a large mean costs no digits.
template <class T>
void moments_tile(const NormTile& tile, const NormRows<const T>& x, NormSums* moments) {
  NormLanes sums[kNormChannels];
  __builtin_memset(sums, 0, static_cast<uint64_t>(tile.channels) * sizeof *sums);
  for_rows(tile, [&](int64_t r, int64_t c) {
    const T* row = x.at(r, c);
    const int64_t ahead = elements_ahead(tile, r, x.row);
    const double shift = static_cast<double>(*x.at(0, c));
    sums[c].add(
        tile.n,
        [&](int64_t i, Lanes* first, Lanes* second) {
          GK_LOAD(T, v, row + i)
          __builtin_prefetch(row + i + ahead);
          v -= shift;
          *first += v;
          *second += v * v;
        },
        [&](int64_t i, double* first, double* second) {
          const double d = static_cast<double>(row[i]) - shift;
          *first += d;
          *second += d * d;
        });
  });
  for (int64_t c = 0; c < tile.channels; ++c) {
    const double first = add_lanes(sums[c].first), step = first / static_cast<double>(tile.rows * tile.n);
    moments[c] = {static_cast<double>(*x.at(0, c)) + step, add_lanes(sums[c].second) - first * step};
  }
}

// A cotangent, or a pack of them, before the activation and the dropout that made y.
template <Gate gate, class T, class V>
inline V gated(V y, V ct, T slope, T scale) {
  if (gate == Gate::none) return ct;
  const V zero = {}, kept = gate == Gate::mark ? ct * scale : ct;
  const V below = gate == Gate::sign && slope == T(0) ? zero : kept * slope, v = y > zero ? kept : below;
  return gate == Gate::mark ? (is_plus_zero(y) ? zero : v) : v;
}

template <class T, Gate gate>
void norm_sums_tile(const NormTile& tile, const NormOperands<T>& operands, NormSums* to) {
  typedef typename PackOf<T>::type Pack;
  const T slope = static_cast<T>(operands.slope), scale = static_cast<T>(operands.scale);
  NormLanes sums[kNormChannels];
  __builtin_memset(sums, 0, static_cast<uint64_t>(tile.channels) * sizeof *sums);
  for_rows(tile, [&](int64_t r, int64_t c) {
    const T *x = operands.x.at(r, c), *y = operands.y.at(r, c), *ct = operands.ct.at(r, c);
    const double mean = operands.mean[c];
    const int64_t ahead_x = elements_ahead(tile, r, operands.x.row), ahead_y = elements_ahead(tile, r, operands.y.row),
                  ahead_ct = elements_ahead(tile, r, operands.ct.row);
    sums[c].add(
        tile.n,
        [&](int64_t i, Lanes* first, Lanes* second) {
          Pack marks = {}, given;
          if (gate != Gate::none) __builtin_memcpy(&marks, y + i, sizeof marks);
          __builtin_memcpy(&given, ct + i, sizeof given);
          const Lanes v = __builtin_convertvector((gated<gate, T>(marks, given, slope, scale)), Lanes);
          GK_LOAD(T, centred, x + i)
          __builtin_prefetch(x + i + ahead_x);
          __builtin_prefetch(ct + i + ahead_ct);
          if (gate != Gate::none) __builtin_prefetch(y + i + ahead_y);
          *first += v;
          *second += v * (centred - mean);
        },
        [&](int64_t i, double* first, double* second) {
          const T mark = gate == Gate::none ? T(0) : y[i];
          const double v = static_cast<double>(gated<gate, T>(mark, ct[i], slope, scale));
          *first += v;
          *second += v * (static_cast<double>(x[i]) - mean);
        });
  });
  for (int64_t c = 0; c < tile.channels; ++c) to[c] = {add_lanes(sums[c].first), add_lanes(sums[c].second)};
}

template <class T, Gate gate>
void norm_gradient_tile(const NormTile& tile, const NormOperands<T>& operands, const NormFactors* factors,
                        const NormRows<T>& to) {
  const T slope = static_cast<T>(operands.slope), scale = static_cast<T>(operands.scale);
  for_rows(tile, [&](int64_t r, int64_t c) {
    const T* __restrict x = operands.x.at(r, c), * __restrict y = operands.y.at(r, c);
    const T* __restrict ct = operands.ct.at(r, c);
    T* __restrict gx = to.at(r, c);
    const T m = static_cast<T>(operands.mean[c]), on_ct = static_cast<T>(factors[c].ct),
            on_x = static_cast<T>(factors[c].x), constant = static_cast<T>(factors[c].constant);
    for (int64_t i = 0; i < tile.n; ++i) {
      const T v = gated<gate, T>(gate == Gate::none ? T(0) : y[i], ct[i], slope, scale);
      gx[i] = on_ct * v + (on_x * (x[i] - m) + constant);
    }
  });
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
