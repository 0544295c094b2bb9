// Vectors of one register: GCC and Clang vector extensions carry + - * / and comparisons, so only what they lack is
// here. Included inside the namespace of an instruction set, with GK_VECTOR_BYTES set to its register width.

template <class T>
struct Simd {
  static constexpr int lanes = GK_VECTOR_BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(GK_VECTOR_BYTES)));
  typedef T loose __attribute__((vector_size(GK_VECTOR_BYTES), aligned(alignof(T))));  // any address of a T
};

typedef Simd<float>::type VFloat;
typedef Simd<double>::type VDouble;

template <class T>
static inline typename Simd<T>::type load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::loose*>(p);
}

template <class T>
static inline void store(T* p, typename Simd<T>::type v) {
  *reinterpret_cast<typename Simd<T>::loose*>(p) = v;
}

template <class T>
static inline typename Simd<T>::type broadcast(T value) {
  return value - typename Simd<T>::type{};
}

// The N numbers at p again and again through the vector.
#if GK_VECTOR_BYTES > 16
template <class T, int N>
static inline typename Simd<T>::type broadcast_parts(const T* p) {
  typedef typename Simd<T>::type V;
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 1) {
    return broadcast(*p);
  } else if constexpr (N * sizeof(T) == GK_VECTOR_BYTES) {
    return load(p);
  } else if constexpr (N * sizeof(T) == 8) {
    long long both;
    __builtin_memcpy(&both, p, 8);
#if defined(__AVX512F__)
    return (V)_mm512_set1_epi64(both);
#else
    return (V)_mm256_set1_epi64x(both);
#endif
  } else if constexpr (N * sizeof(T) == 16) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
#if defined(__AVX512F__)
    return (V)_mm512_maskz_broadcast_i32x4(0xffff, all);  // the plain one makes GCC 12 warn of its own header
#else
    return (V)_mm256_broadcastsi128_si256(all);
#endif
  } else {
#if defined(__AVX512F__)
    return (V)_mm512_maskz_broadcast_i64x4(0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#endif
  }
}
#else
template <class T, int N>
static inline typename Simd<T>::type broadcast_parts(const T* p) {
  static_assert(N == 1);
  return broadcast(*p);
}
#endif

// Stores to an aligned address beside the caches, where the instruction set can; settled before other threads read it.
#if defined(__AVX512F__)
static inline void stream(float* p, VFloat v) { _mm512_stream_ps(p, v); }
static inline void stream(double* p, VDouble v) { _mm512_stream_pd(p, v); }
static void settle() { _mm_sfence(); }
#elif defined(__AVX__)
static inline void stream(float* p, VFloat v) { _mm256_stream_ps(p, v); }
static inline void stream(double* p, VDouble v) { _mm256_stream_pd(p, v); }
static void settle() { _mm_sfence(); }
#else
static inline void stream(float* p, VFloat v) { store(p, v); }
static inline void stream(double* p, VDouble v) { store(p, v); }
static void settle() {}
#endif

// a*b + c, rounded once where the instruction set can.
#if defined(__AVX512F__)
static inline VFloat fma(VFloat a, VFloat b, VFloat c) { return _mm512_fmadd_ps(a, b, c); }
static inline VDouble fma(VDouble a, VDouble b, VDouble c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
static inline VFloat fma(VFloat a, VFloat b, VFloat c) { return _mm256_fmadd_ps(a, b, c); }
static inline VDouble fma(VDouble a, VDouble b, VDouble c) { return _mm256_fmadd_pd(a, b, c); }
#else
static inline VFloat fma(VFloat a, VFloat b, VFloat c) { return a * b + c; }
static inline VDouble fma(VDouble a, VDouble b, VDouble c) { return a * b + c; }
#endif
