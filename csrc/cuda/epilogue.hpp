// What follows a convolution or a product, where its result is stored: y = dropout(leaky_relu(y + bias[c])) for
// y(N, C, L), or (N, C), contiguous. Same bits as the operations one by one, and same mask for the same seed; but with
// dropout a dropped element is +0 and a kept one is not (its zero becomes -0), so that y itself holds the mask, as in
// csrc/cpu/epilogue.hpp. epilogue.cuh has the arithmetic.
#pragma once

#include <cstdint>

#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cuda {

using std::uint64_t;

// The kernels of core/kernels.inc of the same names, with an epilogue: bias(C), or of size 0: none; slope 1: no
// activation; p 0: no dropout. The channels of a product, of one matrix by one, are its columns.
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

}  // namespace gk::cuda
