// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC'11), many blocks at once.
// key = (low, high) words of the seed, counter = (low, high) words of the block number, 0, 0.

constexpr int64_t kPhiloxBlocks = 128;  // blocks generated together

struct PhiloxWords {
  uint32_t word[4][kPhiloxBlocks];
};

inline void philox(uint64_t seed, uint64_t first, PhiloxWords& out) {
  for (int64_t i = 0; i < kPhiloxBlocks; ++i) {
    const uint64_t block = first + static_cast<uint64_t>(i);
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint64_t a = static_cast<uint64_t>(c0) * 0xD2511F53u, b = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
      c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(b);
      c3 = static_cast<uint32_t>(a);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    out.word[0][i] = c0;
    out.word[1][i] = c1;
    out.word[2][i] = c2;
    out.word[3][i] = c3;
  }
}

inline float uniform24(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8)) * 5.9604644775390625e-8f;
}

inline double uniform53(uint32_t low, uint32_t high) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  // 53 bits to double without a 64-bit conversion: two halves below 2^32, each placed under an exponent
  const double upper = from_bits((bits >> 26) | 0x4330000000000000u) - 4503599627370496.0;
  const double lower = from_bits((bits & 0x3ffffffu) | 0x4330000000000000u) - 4503599627370496.0;
  return (upper * 67108864.0 + lower) * 1.1102230246251565404e-16;
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
  PhiloxWords words;
  uint32_t drawn[batch];
  for (; n > 0; n -= batch, x += batch, y += batch, block += kPhiloxBlocks) {
    philox(seed, block, words);
    for (int64_t i = 0; i < kPhiloxBlocks; ++i)
      for (int64_t j = 0; j < 4; ++j) drawn[4 * i + j] = words.word[j][i] >> 8;
    const int64_t count = n < batch ? n : batch;
    for (int64_t i = 0; i < count; ++i) {
      const T v = x[i] * s;
      y[i] = drawn[i] >= threshold ? v : T(0);
    }
  }
}
