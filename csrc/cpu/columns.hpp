// The columns of one channel, for a range of output positions: shared by im2col, col2im and the im2col convolution.
#pragma once

#include "../core/geometry.hpp"

namespace gk::cpu {

// cols[k*row_stride + (p - begin)*stride] = the cell of x (one image, one channel) that tap k reads at position p, or
// 0. Positions are numbered row-major over y; x_stride has the strides of D, H, W.
template <class T>
void channel_columns(const T* x, const int64_t* x_stride, const ConvGeometry& g, int64_t begin, int64_t end, T* cols,
                     int64_t row_stride, int64_t stride);

// The adjoint: adds every column entry to the cell it was read from.
template <class T>
void add_channel_columns(const T* cols, int64_t row_stride, int64_t stride, const ConvGeometry& g, int64_t begin,
                         int64_t end, T* x, const int64_t* x_stride);

}  // namespace gk::cpu
