// The inner loops of convolution and matrix product, per instruction set.
// "Lane layout": an array whose last axis is one vector; element l of every vector belongs to lane l.
#pragma once

#include <cstdint>

namespace gk::cpu {

using std::int64_t;

// Where one tap reads: its cell relative to the first one, its weights relative to those of the input channel.
struct TapOffset {
  int64_t cell, weight;
};

template <class T>
struct ConvTable {
  static constexpr int kMaxOutputs = 8, kMaxPositions = 16;

  int lanes;         // elements of T in a vector
  int wide_outputs;  // output channels that one tile should hold where there are enough of them
  // Positions of the largest tile with that many outputs; 0 where no such tile is compiled.
  int max_positions[kMaxOutputs + 1];

  // y[o][p] (+)= sum over c, t of w[c*w_channel + tap[t].weight + o] * x[c*x_channel + tap[t].cell + p*lanes],
  // o < O, p < P, added in the order (c, t). Rows of y are y_stride elements apart, positions y_position.
  typedef void (*Tile)(const T* x, int64_t x_channel, const T* w, int64_t w_channel, int64_t channels,
                       const TapOffset* tap, int64_t taps, T* y, int64_t y_stride, int64_t y_position, bool accumulate);
  Tile tile[kMaxOutputs + 1][kMaxPositions + 1];

  // w[tap[t].weight + o*lanes] += sum over rows r, positions p of
  // y[r*y_row + (p*O + o)*lanes] * x[r*x_row + p*lanes + tap[t].cell], lane by lane; o < O, t < P.
  typedef void (*WeightTile)(const T* x, int64_t x_row, const T* y, int64_t y_row, int64_t rows, int64_t width,
                             const TapOffset* tap, T* w);
  WeightTile weight_tile[kMaxOutputs + 1][kMaxPositions + 1];

  // Channels in the lanes: y[to[r] + p*lanes] (+)= sum over t, c < run of w[tap[t].weight + (c*P + p)*lanes] times the
  // number x[at[r] + tap[t].cell + c], r < rows, p < P <= kMaxVectors.
  static constexpr int kMaxRows = 8, kMaxVectors = 3;
  int rows;
  typedef void (*RowTile)(const T* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run, const T* w,
                          T* y, const int64_t* to, bool accumulate);
  RowTile row_tile[kMaxVectors + 1];

  // One vector of which lane l adds part l % N of the sum: c counts steps, and the numbers of a step are the N ones at
  // x[at[r] + tap[t].cell + c*N]. Null where no such tile is compiled.
  static constexpr int kMaxParts = 4;
  RowTile part_tile[kMaxParts + 1];

  // dst vector i = src vector cell[i] - first, zero where cell[i] is outside [first, last)
  void (*pick_cells)(const T* src, const int64_t* cell, int64_t first, int64_t last, int64_t count, T* dst,
                     int64_t stride);

  // dst[i*stride + l] = rows[l][i] and back, i < count, l < lanes.
  void (*interleave)(const T* const* rows, int64_t count, T* dst, int64_t stride);
  void (*deinterleave)(const T* src, int64_t stride, int64_t count, T* const* rows);

  // dst[r*dst_row + i] = src[r*src_row + i], i < width
  void (*copy_rows)(const T* src, int64_t src_row, int64_t rows, int64_t width, T* dst, int64_t dst_row);

  // sums[i] += sum over the lanes of src[i*lanes + l], in one fixed order
  void (*add_lanes)(const T* src, int64_t count, T* sums);
};

}  // namespace gk::cpu
