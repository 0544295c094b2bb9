// Inner loops over pairs of bfloat16 numbers: two neighbours of the inner extent in 32 bits, the first one in the lower
// half. Products of pairs are added to float32 sums; subnormal numbers count as zero.
#pragma once

#include <cstdint>

#include "conv.hpp"

namespace gk::cpu {

typedef std::uint32_t Bf16Pair;

struct Bf16Table {
  static constexpr int kMaxOutputs = 8, kMaxVectors = 3, kMaxParts = 4;

  // ConvTable<float>::tile, row_tile and part_tile with pairs for the numbers of x and w: strides, cells and runs count
  // pairs. Null where no such tile is compiled.
  typedef void (*Tile)(const Bf16Pair* x, int64_t x_channel, const Bf16Pair* w, int64_t w_channel, int64_t channels,
                       const TapOffset* tap, int64_t taps, float* y, int64_t y_stride, int64_t y_position,
                       bool accumulate);
  Tile tile[kMaxOutputs + 1][kMaxVectors + 1];
  typedef void (*RowTile)(const Bf16Pair* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run,
                          const Bf16Pair* w, float* y, const int64_t* to, bool accumulate);
  RowTile row_tile[kMaxVectors + 1], part_tile[kMaxParts + 1];

  // dst[i] = (low[i], high[i]) and dst[i] = (x[2i], x[2i + 1]), rounded.
  void (*merge)(const float* low, const float* high, int64_t count, Bf16Pair* dst);
  void (*narrow)(const float* x, int64_t count, Bf16Pair* dst);
};

}  // namespace gk::cpu
