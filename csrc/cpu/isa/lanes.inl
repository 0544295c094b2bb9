// Transposes between plain rows and lane layout: log2(lanes) butterfly stages of two-source shuffles.

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
  typedef Indices<I...> type;
};

#if defined(__clang__)
#define GK_SHUFFLE(a, b, index) __builtin_shufflevector(a, b, (index)...)
#else
template <class T>
struct Mask;
template <>
struct Mask<float> {
  typedef int type __attribute__((vector_size(GK_VECTOR_BYTES)));
};
template <>
struct Mask<double> {
  typedef long long type __attribute__((vector_size(GK_VECTOR_BYTES)));
};
#define GK_SHUFFLE(a, b, index) __builtin_shuffle(a, b, typename Mask<T>::type{(index)...})
#endif

// Swaps the off-diagonal S x S blocks of the rows a and b, S rows apart.
template <class T, int S, int... I>
static inline void exchange(typename Simd<T>::type& a, typename Simd<T>::type& b, Indices<I...>) {
  constexpr int L = Simd<T>::lanes;
  const auto low = GK_SHUFFLE(a, b, (I & S) ? L + I - S : I);
  const auto high = GK_SHUFFLE(a, b, (I & S) ? L + I : I + S);
  a = low, b = high;
}

template <class T, int S>
static inline void transpose_stages(typename Simd<T>::type* v) {
  constexpr int L = Simd<T>::lanes;
  if constexpr (S < L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (!(i & S)) exchange<T, S>(v[i], v[i + S], typename Count<L>::type());
    transpose_stages<T, 2 * S>(v);
  }
}

// Every lane is a stream of its own, more of them than the processor's prefetchers follow; the next rows of an image
// mostly lie behind this one.
constexpr int kAhead = 256;

template <class T>
static void interleave(const T* const* rows, int64_t count, T* dst, int64_t stride) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  if (count < L) {
    for (int l = 0; l < L; ++l)
      for (int64_t i = 0; i < count; ++i) dst[i * stride + l] = rows[l][i];
    return;
  }
  for (int64_t i = 0; i < count; i += L) {
    const int64_t at = i + L <= count ? i : count - L;  // the last square overlaps the one before it
    V v[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) {
      v[l] = load(rows[l] + at);
      __builtin_prefetch(rows[l] + at + kAhead / sizeof(T));
    }
    transpose_stages<T, 1>(v);
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) store(dst + (at + l) * stride, v[l]);
  }
}

template <class T>
static void deinterleave(const T* src, int64_t stride, int64_t count, T* const* rows) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  if (count < L) {
    for (int l = 0; l < L; ++l)
      for (int64_t i = 0; i < count; ++i) rows[l][i] = src[i * stride + l];
    return;
  }
  for (int64_t i = 0; i < count; i += L) {
    const int64_t at = i + L <= count ? i : count - L;
    V v[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) v[l] = load(src + (at + l) * stride);
    transpose_stages<T, 1>(v);
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) {
      store(rows[l] + at, v[l]);
      __builtin_prefetch(rows[l] + at + kAhead / sizeof(T), 1);
    }
  }
}

template <class T>
static void copy_rows(const T* src, int64_t src_row, int64_t rows, int64_t width, T* dst, int64_t dst_row) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t r = 0; r < rows; ++r, src += src_row, dst += dst_row) {
    if (width < L)
      for (int64_t i = 0; i < width; ++i) dst[i] = src[i];
    else
      for (int64_t i = 0; i < width; i += L) {
        const int64_t at = i + L <= width ? i : width - L;  // the last vector overlaps the one before it
        store(dst + at, load(src + at));
      }
  }
}

// Halves are added until one is left, for a vector of sums at a time and then for the rest in the same order.
template <class T>
static void add_lanes(const T* src, int64_t count, T* sums) {
  constexpr int L = Simd<T>::lanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    typename Simd<T>::type v[L];
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) v[l] = load(src + (i + l) * L);
    transpose_stages<T, 1>(v);
#pragma GCC unroll 4
    for (int half = L / 2; half > 0; half /= 2)
#pragma GCC unroll 8
      for (int l = 0; l < half; ++l) v[l] = v[l] + v[l + half];
    store(sums + i, load(sums + i) + v[0]);
  }
  for (; i < count; ++i) {
    T part[L];
    store(part, load(src + i * L));
    for (int half = L / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) part[l] += part[l + half];
    sums[i] += part[0];
  }
}
