// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC'11), many blocks at once.
// key = (low, high) words of the seed, counter = (low, high) words of the block number, 0, 0.

constexpr int64_t kPhiloxBlocks = 128;  // blocks generated together

struct PhiloxWords {
  uint32_t word[4][kPhiloxBlocks];
};

// Each 64-bit lane works on the words of one block in its low half: the multiplication of low halves is one
// instruction, and what gathers in the high halves is never read.
// With the mask of all lanes: GCC 12 takes the unmasked intrinsics for readers of uninitialised vectors.
#if defined(__AVX512F__)
struct Wide {
  typedef __m512i type;
  static constexpr int64_t blocks = 8;
  static type set(uint64_t v) { return _mm512_set1_epi64(static_cast<long long>(v)); }
  static type count(uint64_t v) { return _mm512_add_epi64(set(v), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0)); }
  static type multiply(type a, type b) { return _mm512_maskz_mul_epu32(0xFF, a, b); }
  static type high(type a) { return _mm512_maskz_srli_epi64(0xFF, a, 32); }
  static type differ(type a, type b, type c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
  static void low(type a, uint32_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtepi64_epi32(0xFF, a));
  }
  static type pair(type a, type b) { return _mm512_mask_blend_epi32(0xAAAA, a, _mm512_maskz_slli_epi64(0xFF, b, 32)); }
  static void in_order(type ab, type cd, uint32_t* to) {
    const type first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0),
               second = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi64(ab, first, cd));
    _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(ab, second, cd));
  }
};
#elif defined(__AVX2__)
struct Wide {
  typedef __m256i type;
  static constexpr int64_t blocks = 4;
  static type set(uint64_t v) { return _mm256_set1_epi64x(static_cast<long long>(v)); }
  static type count(uint64_t v) { return _mm256_add_epi64(set(v), _mm256_set_epi64x(3, 2, 1, 0)); }
  static type multiply(type a, type b) { return _mm256_mul_epu32(a, b); }
  static type high(type a) { return _mm256_srli_epi64(a, 32); }
  static type differ(type a, type b, type c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  static void low(type a, uint32_t* to) {
    const type even = _mm256_permutevar8x32_epi32(a, _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(even));
  }
  static type pair(type a, type b) { return _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xAA); }
  static void in_order(type ab, type cd, uint32_t* to) {
    const type even = _mm256_unpacklo_epi64(ab, cd), odd = _mm256_unpackhi_epi64(ab, cd);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), _mm256_permute2x128_si256(even, odd, 0x31));
  }
};
#else
struct Wide {
  typedef uint64_t type;
  static constexpr int64_t blocks = 1;
  static type set(uint64_t v) { return v; }
  static type count(uint64_t v) { return v; }
  static type multiply(type a, type b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
  static type high(type a) { return a >> 32; }
  static type differ(type a, type b, type c) { return a ^ b ^ c; }
  static void low(type a, uint32_t* to) { *to = static_cast<uint32_t>(a); }
  static type pair(type a, type b) { return (a & 0xffffffffu) | b << 32; }
  static void in_order(type ab, type cd, uint32_t* to) {
    to[0] = static_cast<uint32_t>(ab), to[1] = static_cast<uint32_t>(ab >> 32);
    to[2] = static_cast<uint32_t>(cd), to[3] = static_cast<uint32_t>(cd >> 32);
  }
};
#endif

// store(i, c0, c1, c2, c3) for the words of blocks first + i .. first + i + Wide::blocks
template <class F>
inline void philox_blocks(uint64_t seed, uint64_t first, F&& store) {
  for (int64_t i = 0; i < kPhiloxBlocks; i += Wide::blocks) {
    Wide::type c0 = Wide::count(first + static_cast<uint64_t>(i)), c1 = Wide::high(c0);
    Wide::type c2 = Wide::set(0), c3 = c2;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const Wide::type a = Wide::multiply(c0, Wide::set(kPhiloxA)), b = Wide::multiply(c2, Wide::set(kPhiloxB));
      c0 = Wide::differ(Wide::high(b), c1, Wide::set(k0));
      c2 = Wide::differ(Wide::high(a), c3, Wide::set(k1));
      c1 = b;
      c3 = a;
      k0 += kWeylA;
      k1 += kWeylB;
    }
    store(i, c0, c1, c2, c3);
  }
}

inline void philox(uint64_t seed, uint64_t first, PhiloxWords& out) {
  philox_blocks(seed, first, [&](int64_t i, Wide::type c0, Wide::type c1, Wide::type c2, Wide::type c3) {
    Wide::low(c0, out.word[0] + i);
    Wide::low(c1, out.word[1] + i);
    Wide::low(c2, out.word[2] + i);
    Wide::low(c3, out.word[3] + i);
  });
}

// The words in the order of the elements that use them.
inline void philox_in_order(uint64_t seed, uint64_t first, uint32_t* words) {
  philox_blocks(seed, first, [&](int64_t i, Wide::type c0, Wide::type c1, Wide::type c2, Wide::type c3) {
    Wide::in_order(Wide::pair(c0, c1), Wide::pair(c2, c3), words + 4 * i);
  });
}

inline float uniform24(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * kUniform24; }

inline double uniform53(uint32_t low, uint32_t high) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  // 53 bits to double without a 64-bit conversion: two halves below 2^32, each placed under an exponent
  const double upper = from_bits((bits >> 26) | 0x4330000000000000u) - 4503599627370496.0;
  const double lower = from_bits((bits & 0x3ffffffu) | 0x4330000000000000u) - 4503599627370496.0;
  return (upper * 67108864.0 + lower) * kUniform53;
}

// z of a pair of uniforms (Box and Muller, 1958); 1 - u is never zero
inline void box_muller(double u, double v, double* z) {
  const double r = __builtin_sqrt(-2.0 * log_of(1.0 - u));
  double s, c;
  sincos_turns(v, &s, &c);
  z[0] = r * c;
  z[1] = r * s;
}

// float: 4 elements a block; double: 2
inline void fill_uniform(const PhiloxWords& w, float* __restrict y) {
  for (int64_t i = 0; i < kPhiloxBlocks; ++i)
    for (int64_t j = 0; j < 4; ++j) y[4 * i + j] = uniform24(w.word[j][i]);
}
inline void fill_uniform(const PhiloxWords& w, double* __restrict y) {
  for (int64_t i = 0; i < kPhiloxBlocks; ++i)
    for (int64_t j = 0; j < 2; ++j) y[2 * i + j] = uniform53(w.word[2 * j][i], w.word[2 * j + 1][i]);
}
inline void fill_normal(const PhiloxWords& w, float* __restrict y) {
  for (int64_t i = 0; i < kPhiloxBlocks; ++i) {
    double z[4];
    box_muller(uniform24(w.word[0][i]), uniform24(w.word[1][i]), z);
    box_muller(uniform24(w.word[2][i]), uniform24(w.word[3][i]), z + 2);
    for (int64_t j = 0; j < 4; ++j) y[4 * i + j] = static_cast<float>(z[j]);
  }
}
inline void fill_normal(const PhiloxWords& w, double* __restrict y) {
  for (int64_t i = 0; i < kPhiloxBlocks; ++i) {
    double z[2];
    box_muller(uniform53(w.word[0][i], w.word[1][i]), uniform53(w.word[2][i], w.word[3][i]), z);
    y[2 * i] = z[0];
    y[2 * i + 1] = z[1];
  }
}

template <class T, void (*Fill)(const PhiloxWords&, T*)>
void random_run(T* y, int64_t n, uint64_t seed, uint64_t block) {
  constexpr int64_t batch = kPhiloxBlocks * (sizeof(T) == 4 ? 4 : 2);
  PhiloxWords words;
  T values[batch];
  for (; n > 0; n -= batch, y += batch, block += kPhiloxBlocks) {
    philox(seed, block, words);
    if (n >= batch) {
      Fill(words, y);
    } else {
      Fill(words, values);
      __builtin_memcpy(y, values, static_cast<uint64_t>(n) * sizeof(T));
    }
  }
}

template <class T>
void dropout_run(const T* __restrict x, T* __restrict y, int64_t n, uint32_t threshold, double scale, uint64_t seed,
                 uint64_t block) {
  constexpr int64_t batch = kPhiloxBlocks * 4;
  const T s = static_cast<T>(scale);
  uint32_t drawn[batch];
  for (; n > 0; n -= batch, x += batch, y += batch, block += kPhiloxBlocks) {
    philox_in_order(seed, block, drawn);
    const int64_t count = n < batch ? n : batch;
    for (int64_t i = 0; i < count; ++i) {
      const T v = x[i] * s;
      y[i] = drawn[i] >> 8 >= threshold ? v : T(0);
    }
  }
}

// In place; a dropped element is +0 and a kept one is not: its zero becomes -0.
template <class T>
void dropout_marked_run(T* y, int64_t n, uint32_t threshold, double scale, uint64_t seed, uint64_t block) {
  constexpr int64_t batch = kPhiloxBlocks * 4;
  const T s = static_cast<T>(scale);
  uint32_t drawn[batch];
  for (; n > 0; n -= batch, y += batch, block += kPhiloxBlocks) {
    philox_in_order(seed, block, drawn);
    const int64_t count = n < batch ? n : batch;
    for (int64_t i = 0; i < count; ++i) {
      const T v = y[i] * s, kept = v == T(0) ? T(-0.0) : v;
      y[i] = drawn[i] >> 8 >= threshold ? kept : T(0);
    }
  }
}
