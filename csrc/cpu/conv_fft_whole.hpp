// FFT convolutions of stride and dilation 1 in one transform of the whole volume.
#pragma once

#include "../core/geometry.hpp"
#include "../core/view.hpp"

namespace gk::cpu {

// Transforms up to kLongestFft that see a cell of x, spectra of 16 images (8 in double) up to 512 MiB.
template <class T>
bool fft_whole_covers(const ConvGeometry& g);
template <class T>
double fft_whole_cost(const ConvGeometry& g);
template <class T>
void fft_whole(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g);
template <class T>
void fft_whole_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g);
template <class T>
void fft_whole_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g);
// Both of them, to the same bits.
template <class T>
void fft_whole_gradients(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw,
                         const ConvGeometry& g);

}  // namespace gk::cpu
