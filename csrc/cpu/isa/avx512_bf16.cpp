// AVX-512 with BF16: products of bfloat16 pairs, otherwise the loops of conv.inl and rows.inl.
// Only intrinsics headers and table structs are included here, and everything lives in this namespace.
#include <immintrin.h>

#include "bf16.hpp"

#define GK_UNROLL _Pragma("GCC unroll 16")

namespace gk::cpu::avx512_bf16 {
namespace {

constexpr int L = 16, kRows = 8;

inline __m512 products(__m512i a, __m512i b, __m512 sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
inline __m512i load(const Bf16Pair* p) { return _mm512_loadu_si512(p); }

// The N pairs at p again and again through the vector.
template <int N>
inline __m512i broadcast_parts(const Bf16Pair* p) {
  static_assert(N == 1 || N == 2 || N == 4);
  if constexpr (N == 1) {
    return _mm512_set1_epi32(static_cast<int>(*p));
  } else if constexpr (N == 2) {
    long long both;
    __builtin_memcpy(&both, p, 8);
    return _mm512_set1_epi64(both);
  } else {
    return _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
}

template <int O, int P>
void tile(const Bf16Pair* x, int64_t x_channel, const Bf16Pair* w, int64_t w_channel, int64_t channels,
          const TapOffset* tap, int64_t taps, float* y, int64_t y_stride, int64_t y_position, bool accumulate) {
  __m512 sum[O][P];
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] =
        accumulate ? _mm512_loadu_ps(y + o * y_stride + p * y_position) : _mm512_setzero_ps();
  }
  for (int64_t c = 0; c < channels; ++c, x += x_channel, w += w_channel) {
    for (int64_t t = 0; t < taps; ++t) {
      const Bf16Pair* at = x + tap[t].cell;
      const Bf16Pair* weight = w + tap[t].weight;
      __m512i xs[P];
      GK_UNROLL for (int p = 0; p < P; ++p) xs[p] = load(at + p * L);
      GK_UNROLL for (int o = 0; o < O; ++o) {
        const __m512i ws = broadcast_parts<1>(weight + o);
        GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = products(xs[p], ws, sum[o][p]);
      }
    }
  }
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) _mm512_storeu_ps(y + o * y_stride + p * y_position, sum[o][p]);
  }
}

template <int P, int N = 1>
void row_tile(const Bf16Pair* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run, const Bf16Pair* w,
              float* y, const int64_t* to, bool accumulate) {
  __m512 sum[kRows][P];
  GK_UNROLL for (int r = 0; r < kRows; ++r) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[r][p] =
        accumulate ? _mm512_loadu_ps(y + to[r] + p * L) : _mm512_setzero_ps();
  }
  for (int64_t t = 0; t < taps; ++t) {
    const Bf16Pair* weight = w + tap[t].weight;
    const Bf16Pair* rows[kRows];
    GK_UNROLL for (int r = 0; r < kRows; ++r) rows[r] = x + at[r] + tap[t].cell;
    for (int64_t c = 0; c < run; ++c, weight += P * L) {
      __m512i ws[P];
      GK_UNROLL for (int p = 0; p < P; ++p) ws[p] = load(weight + p * L);
      GK_UNROLL for (int r = 0; r < kRows; ++r) {
        const __m512i xs = broadcast_parts<N>(rows[r] + c * N);
        GK_UNROLL for (int p = 0; p < P; ++p) sum[r][p] = products(xs, ws[p], sum[r][p]);
      }
    }
  }
  GK_UNROLL for (int r = 0; r < kRows; ++r) {
    GK_UNROLL for (int p = 0; p < P; ++p) _mm512_storeu_ps(y + to[r] + p * L, sum[r][p]);
  }
}

// The rounding instructions make subnormals zero and keep NaN and infinities.
void merge(const float* low, const float* high, int64_t count, Bf16Pair* dst) {
  for (int64_t i = 0; i < count; i += L) {
    const __mmask16 some = count - i < L ? static_cast<__mmask16>((1 << (count - i)) - 1) : 0xffff;
    const __m256i a = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, low + i));
    const __m256i b = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, high + i));
    // the plain forms of these make GCC 12 warn of its own headers
    const __m512i first = _mm512_maskz_cvtepu16_epi32(0xffff, a), second = _mm512_maskz_cvtepu16_epi32(0xffff, b);
    const __m512i pairs = _mm512_or_si512(first, _mm512_maskz_slli_epi32(0xffff, second, 16));
    _mm512_mask_storeu_epi32(dst + i, some, pairs);
  }
}

void narrow(const float* x, int64_t count, Bf16Pair* dst) {
  for (int64_t i = 0; i < count; i += L / 2) {
    const int64_t left = 2 * (count - i);
    const __mmask16 some = left < L ? static_cast<__mmask16>((1 << left) - 1) : 0xffff;
    const __m256i pairs = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, x + 2 * i));
    _mm256_mask_storeu_epi32(dst + i, left < L ? static_cast<__mmask8>((1 << (count - i)) - 1) : 0xff, pairs);
  }
}

}  // namespace

#define GK_PAIR_TILES(O) {nullptr, tile<O, 1>, tile<O, 2>, tile<O, 3>}
extern const Bf16Table bf16_products;
const Bf16Table bf16_products = {
    {{}, GK_PAIR_TILES(1), GK_PAIR_TILES(2), {}, GK_PAIR_TILES(4), {}, GK_PAIR_TILES(6), {}, GK_PAIR_TILES(8)},
    {nullptr, row_tile<1>, row_tile<2>, row_tile<3>},
    {nullptr, nullptr, row_tile<1, 2>, nullptr, row_tile<1, 4>},
    merge,
    narrow};

}  // namespace gk::cpu::avx512_bf16
