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
