// What follows a convolution, a product or a normalisation, in one pass over its output y(N,C,L) or y(N,C). Arrays are
// contiguous. A backend may do without these kernels: gankernels/ops/epilogue.py then runs the operations that they
// join one by one.
#pragma once

#include <cstdint>

#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cpu {

using std::uint64_t;

// y = dropout(leaky_relu(y + bias[c])) in place; bias(C), or of size 0: none; slope 1: no activation; p 0: no dropout.
// With p > 0 a dropped element is +0 and a kept one is not (its zero becomes -0): the mask is stored in y itself.
template <class T>
void epilogue(View<T> y, View<const T> bias, double slope, double p, uint64_t seed, uint64_t offset);

// The kernels of core/kernels.inc of the same names and then the epilogue of their output, which is contiguous. The
// channels of a product, of one matrix by one, are its columns. In conv_epilogue.cpp.
template <class T>
void conv_epilogue(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
                   View<const T> bias, double slope, double p, uint64_t seed, uint64_t offset);
template <class T>
void conv_transpose_epilogue(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                             View<const T> bias, double slope, double p, uint64_t seed, uint64_t offset);
template <class T>
void upsample_conv_epilogue(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                            View<const T> bias, double slope, double p, uint64_t seed, uint64_t offset);
template <class T>
void matmul_epilogue(View<const T> a, View<const T> b, View<T> c, MatmulPrecision precision, View<const T> bias,
                     double slope, double p, uint64_t seed, uint64_t offset);

// gx = the gradient at y before the epilogue, given y after it; gbias(C), or of size 0, = its sum over N and L.
template <class T>
void epilogue_backward(View<const T> y, View<const T> ct, View<T> gx, View<T> gbias, double slope, double p);

// y = dropout(leaky_relu(x*scale[c] + shift[c])), marked as by epilogue; scale(C), shift(C)
template <class T>
void norm_epilogue(View<const T> x, View<const T> scale, View<const T> shift, View<T> y, double slope, double p,
                   uint64_t seed, uint64_t offset);

// batch_norm_backward where y(N,C,L) came out of norm_epilogue and ct is the cotangent of y
template <class T>
void norm_epilogue_backward(View<const T> x, View<const T> y, View<const T> ct, View<const T> mean, View<const T> rstd,
                            View<const T> weight, View<T> gx, View<T> gweight, View<T> gbias, double slope, double p);

// What dropout multiplies the elements by that it keeps.
inline double dropout_scale(double p) { return p < 1.0 ? 1.0 / (1.0 - p) : 0.0; }

}  // namespace gk::cpu
