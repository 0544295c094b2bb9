// The convolution paths; conv.cpp chooses. Views have five axes here.
#pragma once

#include "../core/geometry.hpp"
#include "../core/view.hpp"
#include "elements.hpp"

namespace gk::cpu {

template <class T>
View<const T> no_bias() {
  return {nullptr, 1, {0}, {1}};
}

// What a path may do to its results on their way to memory: y = leaky_relu(y + bias[c]), see epilogue.hpp.
template <class T>
struct Finish {
  View<const T> bias = no_bias<T>();  // (C), or of size 0: none
  double slope = 1.0;

  // Some values of one channel, in place.
  void operator()(T* values, int64_t count, int64_t channel) const {
    if (bias.size() == 0 && slope == 1.0) return;
    elements<T>().bias_act(values, bias.size() != 0 ? bias.data[channel * bias.stride[0]] : T(0), count, slope);
  }
};

template <class T>
using FinishingPath = void (*)(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Finish<T>&);

// Such a path that leaves its results as they are.
template <class T, FinishingPath<T> path>
void plain(View<const T> a, View<const T> b, View<T> c, const ConvGeometry& g) {
  path(a, b, c, g, {});
}

template <class T>
void conv_batch(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Finish<T>& finish = {});
template <class T>
void conv_transpose_batch(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g,
                          const Finish<T>& finish = {});
template <class T>
void conv_weight_batch(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g);

// For gathers whose rows adjoin (lanes.hpp).
template <class T>
void conv_rows(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Finish<T>& finish);
template <class T>
void conv_transpose_rows(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, const Finish<T>& finish);

template <class T>
void conv_channels(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g);
template <class T>
void conv_transpose_channels(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g);
template <class T>
void conv_weight_channels(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g);

// The channels path with pairs of factors rounded to bfloat16: where the processor has products of them (bf16.hpp).
void conv_bf16(View<const float> x, View<const float> w, View<float> y, const ConvGeometry& g);
void conv_transpose_bf16(View<const float> y, View<const float> w, View<float> x, const ConvGeometry& g);
void conv_weight_bf16(View<const float> x, View<const float> y, View<float> w, const ConvGeometry& g);

template <class T>
void conv_im2col(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g);
template <class T>
void conv_transpose_im2col(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g);
template <class T>
void conv_weight_im2col(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g);

// Any stride, unit dilations, kernels that are short beside the longest transform.
template <class T>
bool conv_fft_covers(const ConvGeometry& g);
// Predicted time of any slot, in multiply-adds of vectors by the batch path.
template <class T>
double conv_fft_cost(const ConvGeometry& g);
template <class T>
void conv_fft(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g);
template <class T>
void conv_transpose_fft(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g);
template <class T>
void conv_weight_fft(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g);
// Is y transformed only once by this one? It gives the bits of the other two.
template <class T>
bool conv_gradients_fft_covers(const ConvGeometry& g);
template <class T>
void conv_gradients_fft(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw,
                        const ConvGeometry& g);

}  // namespace gk::cpu
