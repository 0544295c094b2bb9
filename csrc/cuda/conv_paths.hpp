// The convolution paths; conv.cu chooses. Views have five axes here. R is T, or Compute<T> for sums that another kernel
// goes on with.
#pragma once

#include "../core/geometry.hpp"
#include "../core/view.hpp"
#include "gemm.hpp"

namespace gk::cuda {

// conv, conv_transpose of kernels.hpp with what follows.
template <class T>
void conv_then(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
               const Epilogue<T>& after);
template <class T>
void conv_transpose_then(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                         const Epilogue<T>& after);
template <class T, class R>
void conv_weight_sums(View<const T> x, View<const T> y, View<R> w, const ConvGeometry& g, ConvAlgorithm a);

// Cells and taps of the implicit product and of the direct path are 32-bit numbers below this.
constexpr int64_t kLargestCell = int64_t(1) << 28;
bool fits_cells(const ConvGeometry& g);

// Products whose operands are the arrays themselves, for run_gemm.
template <class T, class R>
Gemm<T> conv_product(View<const T> x, View<const T> w, View<R> y, const ConvGeometry& g);
template <class T, class R>
Gemm<T> conv_transpose_product(View<const T> y, View<const T> w, View<R> x, const ConvGeometry& g);
template <class T, class R>
Gemm<T> conv_weight_product(View<const T> x, View<const T> y, View<R> w, const ConvGeometry& g);

// The same with the taps along w beside the channels in n: few channels fill the tile of a product.
template <class T>
void conv_folded(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, Precision p,
                 const Epilogue<T>& after);
template <class T>
void conv_transpose_folded(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, Precision p,
                           const Epilogue<T>& after);
// strides of 1 along w
template <class T, class R>
void conv_weight_folded(View<const T> x, View<const T> y, View<R> w, const ConvGeometry& g, Precision p);

// Sliding windows in registers, for float. False, and nothing is done, where a geometry is not covered: cells that are
// not neighbours along w, or a kernel too large for shared memory.
template <class T>
bool conv_direct(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Epilogue<T>& after);
template <class T>
bool conv_transpose_direct(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g,
                           const Epilogue<T>& after);

// Columns in memory and a product.
template <class T>
void conv_im2col(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Epilogue<T>& after);
template <class T>
void conv_transpose_im2col(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g,
                           const Epilogue<T>& after);
template <class T>
void conv_weight_im2col(View<const T> x, View<const T> y, View<Compute<T>> w, const ConvGeometry& g);

template <class T>
View<T> row_major(T* data, const int64_t (&shape)[5]) {
  View<T> v{data, 5, {}, {}};
  int64_t stride = 1;
  for (int i = 4; i >= 0; --i) v.shape[i] = shape[i], v.stride[i] = stride, stride *= shape[i];
  return v;
}

// What the phases of a transposed convolution share on one axis.
PhaseAxis phase_axis(const ConvGeometry& g, int axis);

inline Digits digits(int64_t outer, const int64_t* extent) {
  return {outer, {static_cast<int>(extent[0]), static_cast<int>(extent[1]), static_cast<int>(extent[2])}};
}

// o reads x at stride*p + dilation*tap - pad; positions and taps are digits of its maps `position` and `tap`.
template <class T>
void read_image(Operand<T>& o, View<const T> x, const ConvGeometry& g, Map& position, Map& tap) {
  o.data = x.data;
  o.batch.stride[0] = g.in_channels / g.groups * x.stride[1];
  o.image = true;
  for (int i = 0; i < 3; ++i) {
    o.data -= g.pad_lo[i] * x.stride[i + 2];
    o.origin[i] = static_cast<int>(-g.pad_lo[i]);
    o.bound[i] = static_cast<int>(g.x[i]);
    position.stride[i + 1] = g.stride[i] * x.stride[i + 2], position.step[i] = static_cast<int>(g.stride[i]);
    tap.stride[i + 1] = g.dilation[i] * x.stride[i + 2], tap.step[i] = static_cast<int>(g.dilation[i]);
  }
}

}  // namespace gk::cuda
