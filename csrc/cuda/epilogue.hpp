// The kernels of core/epilogues.inc, declared for CUDA: results are finished where they are stored, by the arithmetic
// of epilogue.cuh.
#pragma once

#include <cstdint>

#include "../core/bfloat16.hpp"
#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cuda {
using std::uint64_t;
#include "../core/epilogues.inc"

// Convolutions with an epilogue and the moments of their output, mean(C) and variance(C) as channel_moments gives them,
// without another pass over it where a block holds it when it is stored.
template <class T>
void conv_moments(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
                  View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope, double p,
                  uint64_t seed, uint64_t offset);
template <class T>
void conv_transpose_moments(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                            View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope,
                            double p, uint64_t seed, uint64_t offset);
template <class T>
void upsample_conv_moments(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                           View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope,
                           double p, uint64_t seed, uint64_t offset);
}  // namespace gk::cuda
