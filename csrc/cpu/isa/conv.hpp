// The inner loops of convolution and matrix product, per instruction set.
// "Lane layout": an array whose last axis is one vector; element l of every vector belongs to lane l.
#pragma once

#include <cstdint>

namespace gk::cpu {

using std::int64_t;

template <class T>
struct ConvTable {
  static constexpr int kMaxOutputs = 8, kMaxPositions = 8;

  int lanes;         // elements of T in a vector
  int wide_outputs;  // output channels that one tile should hold where there are enough of them
  // Positions of the largest tile with that many outputs; 0 where no such tile is compiled.
  int max_positions[kMaxOutputs + 1];

  // y[o][p] (+)= sum over c, t of w[c][t][o] * x[c*channel + offset[t] + p*lanes], o < O, p < P, in the order (c, t).
  // y rows are y_stride elements apart, positions one vector.
  typedef void (*Tile)(const T* x, int64_t channels, int64_t channel, const int64_t* offset, int64_t taps, const T* w,
                       T* y, int64_t y_stride, bool accumulate);
  Tile tile[kMaxOutputs + 1][kMaxPositions + 1];

  // w[t][o] += sum over rows r, positions p of y[r*y_row + (p*O + o)*lanes] * x[offset[t] + r*x_row + p*lanes],
  // lane by lane; o < O, t < P.
  typedef void (*WeightTile)(const T* x, const int64_t* offset, int64_t x_row, const T* y, int64_t y_row, int64_t rows,
                             int64_t width, T* w);
  WeightTile weight_tile[kMaxOutputs + 1][kMaxPositions + 1];

  // dst[i*stride + l] = rows[l][i] and back, i < count, l < lanes.
  void (*interleave)(const T* const* rows, int64_t count, T* dst, int64_t stride);
  void (*deinterleave)(const T* src, int64_t stride, int64_t count, T* const* rows);

  // sums[i] += sum over the lanes of src[i*lanes + l], in one fixed order
  void (*add_lanes)(const T* src, int64_t count, T* sums);
};

}  // namespace gk::cpu
