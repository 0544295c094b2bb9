// Products of bfloat16 pairs by tiles: registers of up to 16 rows of 16 pairs, of which one instruction multiplies two.
#pragma once

#include "bf16.hpp"

namespace gk::cpu {

struct TileTable {
  static constexpr int kRows = 16, kPairs = 16, kColumns = 16;  // of a tile
  static constexpr int kLeastRun = 8;                           // that pays: of shorter ones tiles are mostly padding
  static constexpr int kMaxGroups = 2, kMaxVectors = 2;         // of tiles that are summed at once

  // y[to[r] + p*kColumns] (+)= sum over t, c < run of the products of the pair x[at[r] + tap[t].cell + c] with the
  // pairs w[tap[t].weight + c*w_row + p*kColumns ...], r < G*kRows, p < P. Strides, cells and runs count pairs. The sum
  // of a column holds the numbers of that column only: what lies in columns that nobody wants may be anything.
  typedef void (*Tile)(const Bf16Pair* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run,
                       const Bf16Pair* w, int64_t w_row, float* y, const int64_t* to, bool accumulate);
  Tile tile[kMaxGroups + 1][kMaxVectors + 1];

  // The calling thread's tiles get the shapes that runs with this remainder modulo kPairs need; and are given up.
  void (*shape)(int remainder);
  void (*release)();
};

}  // namespace gk::cpu
