// AMX-TILE and AMX-BF16, and AVX-512 for what lies between tiles. Two by two tiles are summed at once, or fewer.
// Only intrinsics headers and table structs are included here, and everything lives in this namespace.
#include <immintrin.h>

#include "tile_instructions.hpp"
#include "tiles.hpp"

#define GK_UNROLL _Pragma("GCC unroll 16")

namespace gk::cpu::amx {
namespace {

constexpr int kRows = TileTable::kRows, kPairs = TileTable::kPairs, kColumns = TileTable::kColumns;
constexpr int64_t kPairBytes = sizeof(Bf16Pair), kRowBytes = 64;

// Registers: sums in 0 to 3, row group and vector in one number; factors in 4 to 7. Where a run ends within a tile, its
// end has tiles of its own, as wide as it is: numbers beyond it, which may be NaN, are neither read nor multiplied.
constexpr int kLeft = 4, kLeftSecond = 5, kRight = 6, kRightSecond = 7;  // of whole tiles
constexpr int kLeftEnd = 5, kRightEnd = 7;

void shape(int remainder) {
  TileShapes shapes{};
  shapes.palette = 1;
  for (int t = 0; t < 8; ++t) shapes.rows[t] = kRows, shapes.row_bytes[t] = kRowBytes;
  if (remainder) {
    shapes.row_bytes[kLeftEnd] = static_cast<std::uint16_t>(remainder * kPairBytes);
    shapes.rows[kRightEnd] = static_cast<std::uint8_t>(remainder);
  }
  tile_shapes(shapes);
}

// kRows rows that lie anywhere; the instructions want equal distances, otherwise rows pass through a buffer.
class Rows {
 public:
  explicit Rows(const int64_t* at) : at_(at), distance_(at[1] - at[0]) {
    for (int r = 2; r < kRows; ++r) even_ = even_ && at[r] - at[r - 1] == distance_;
  }

  // Of x + at, `pairs` in a row.
  template <int T>
  void load(const Bf16Pair* x, int pairs) const {
    if (even_) return tile_load<T>(x + at_[0], distance_ * kPairBytes);
    alignas(64) Bf16Pair rows[kRows * kPairs];
    const __mmask16 some = static_cast<__mmask16>((1u << pairs) - 1);
    GK_UNROLL for (int r = 0; r < kRows; ++r)
        _mm512_store_si512(rows + r * kPairs, _mm512_maskz_loadu_epi32(some, x + at_[r]));
    tile_load<T>(rows, kRowBytes);
  }

  template <int T>
  void load(const float* y) const {
    alignas(64) float rows[kRows * kColumns];
    GK_UNROLL for (int r = 0; r < kRows; ++r) _mm512_store_ps(rows + r * kColumns, _mm512_loadu_ps(y + at_[r]));
    tile_load<T>(rows, kRowBytes);
  }

  template <int T>
  void store(float* y) const {
    alignas(64) float rows[kRows * kColumns];
    tile_store<T>(rows, kRowBytes);
    GK_UNROLL for (int r = 0; r < kRows; ++r) _mm512_storeu_ps(y + at_[r], _mm512_load_ps(rows + r * kColumns));
  }

 private:
  const int64_t* at_;
  const int64_t distance_;
  bool even_ = true;
};

// Adds the products of G groups of rows, `pairs` wide, with P vectors of columns.
template <int G, int P, int Left, int LeftSecond, int Right, int RightSecond>
inline void add_products(const Rows* rows, const Bf16Pair* x, int pairs, const Bf16Pair* w, int64_t w_row) {
  rows[0].load<Left>(x, pairs);
  tile_load<Right>(w, w_row * kPairBytes);
  tile_products<0, Left, Right>();
  if constexpr (P == 2) {
    tile_load<RightSecond>(w + kColumns, w_row * kPairBytes);
    tile_products<1, Left, RightSecond>();
  }
  if constexpr (G == 2) {
    rows[1].load<LeftSecond>(x, pairs);
    if constexpr (P == 2) tile_products<3, LeftSecond, RightSecond>();
    if constexpr (P == 2 && Right == RightSecond) tile_load<Right>(w, w_row * kPairBytes);
    tile_products<2, LeftSecond, Right>();
  }
}

template <int G, int P>
void tile(const Bf16Pair* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run, const Bf16Pair* w,
          int64_t w_row, float* y, const int64_t* to, bool accumulate) {
  const Rows rows[] = {Rows(at), Rows(at + (G - 1) * kRows)}, sums[] = {Rows(to), Rows(to + (G - 1) * kRows)};
  if (accumulate) {
    sums[0].load<0>(y);
    if constexpr (P == 2) sums[0].load<1>(y + kColumns);
    if constexpr (G == 2) sums[1].load<2>(y);
    if constexpr (G == 2 && P == 2) sums[1].load<3>(y + kColumns);
  } else {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  }
  const int end = static_cast<int>(run % kPairs);
  const int64_t whole = run - end;
  for (int64_t t = 0; t < taps; ++t) {
    const Bf16Pair *from = x + tap[t].cell, *weight = w + tap[t].weight;
    if (end == 0) {
      for (int64_t c = 0; c < whole; c += kPairs)
        add_products<G, P, kLeft, kLeftSecond, kRight, kRightSecond>(rows, from + c, kPairs, weight + c * w_row, w_row);
    } else {
      for (int64_t c = 0; c < whole; c += kPairs)
        add_products<G, P, kLeft, kLeft, kRight, kRight>(rows, from + c, kPairs, weight + c * w_row, w_row);
      add_products<G, P, kLeftEnd, kLeftEnd, kRightEnd, kRightEnd>(rows, from + whole, end, weight + whole * w_row,
                                                                   w_row);
    }
  }
  sums[0].store<0>(y);
  if constexpr (P == 2) sums[0].store<1>(y + kColumns);
  if constexpr (G == 2) sums[1].store<2>(y);
  if constexpr (G == 2 && P == 2) sums[1].store<3>(y + kColumns);
}

void release() { tile_release(); }

}  // namespace

extern const TileTable bf16_tiles;
const TileTable bf16_tiles = {
    {{}, {nullptr, tile<1, 1>, tile<1, 2>}, {nullptr, tile<2, 1>, tile<2, 2>}}, shape, release};

}  // namespace gk::cpu::amx
