// Which path a convolution takes. The direct one (batch in the vector lanes) is the production path for every shape;
// FFT is taken only where it is asked for ("fft") or allowed and predicted to be faster ("fast"), because its error is
// relative to the image, not to the cell; where it does not cover the geometry the direct path is. im2col + matrix
// product is the plain reference.
#include "conv_paths.hpp"
#include "conv_table.hpp"
#include "kernels.hpp"

namespace gk::cpu {
namespace {

// Few taps never pay; where the two are close the direct path is taken.
template <class T>
bool fft_pays(const ConvGeometry& g) {
  if (g.taps() < 27 || !conv_fft_covers<T>(g)) return false;
  const double pairs = static_cast<double>(g.in_channels / g.groups * g.out_channels);
  const double cells = static_cast<double>(g.batch * g.y_volume()) / conv_table<T>().lanes;
  return conv_fft_cost<T>(g) < pairs * cells * static_cast<double>(g.taps());
}

template <class T, class Path>
Path choose(ConvAlgorithm a, const ConvGeometry& g, Path direct, Path channels, Path im2col, Path fft) {
  if (a == ConvAlgorithm::im2col) return im2col;
  if (a == ConvAlgorithm::channels) return channels;
  if (a == ConvAlgorithm::fast) return fft_pays<T>(g) ? fft : direct;
  return a == ConvAlgorithm::fft && conv_fft_covers<T>(g) ? fft : direct;
}

}  // namespace

template <class T>
void conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a) {
  const auto path = choose<T>(a, g, conv_direct<T>, conv_channels<T>, conv_im2col<T>, conv_fft<T>);
  path(x.volume(), w.volume(), y.volume(), g);
}

template <class T>
void conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a) {
  const auto path = choose<T>(a, g, conv_transpose_direct<T>, conv_transpose_channels<T>, conv_transpose_im2col<T>,
                              conv_transpose_fft<T>);
  path(y.volume(), w.volume(), x.volume(), g);
}

template <class T>
void conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g, ConvAlgorithm a) {
  const auto path =
      choose<T>(a, g, conv_weight_direct<T>, conv_weight_channels<T>, conv_weight_im2col<T>, conv_weight_fft<T>);
  path(x.volume(), y.volume(), w.volume(), g);
}

#define GK_INSTANTIATE(T)                                                                                     \
  template void conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);           \
  template void conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm); \
  template void conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
