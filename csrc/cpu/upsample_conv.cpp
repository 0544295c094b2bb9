// Convolution of a nearest-upsampled image from the small image alone. On one axis, output q reads small cell
// floor((q + k - pad)/f) through tap k: taps that fall into one cell are summed beforehand, and what is left is the
// adjoint of a convolution of stride f with the K + f - 1 sums
//   v[j] = sum of w[k] over K - 1 - j <= k < K - 1 - j + f,  padding K - 1 - pad (negative crops).
// So its f phases are dense convolutions on the small image, the gradient in x is one convolution of stride f, and the
// gradient in w is that of v followed by the same sums, which are their own adjoint. K*f multiply-adds become K + f
// - 1.
#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "kernels.hpp"
#include "parallel.hpp"
#include "prepared.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

// Sums along every axis in turn of (D, H, W, lanes) arrays, from extents `from` to `to`: out[j] = sum of
// in[K - 1 - j ... K - 2 - j + f], zero outside. `a` holds the input, both have room for the larger extents; returns
// the one that holds the result.
template <class T>
const T* sum_runs(T* a, T* b, const int64_t from[3], const int64_t to[3], int64_t lanes,
                  const UpsampleConvGeometry& g) {
  int64_t extent[3] = {from[0], from[1], from[2]};
  for (int axis = 0; axis < 3; ++axis) {
    if (g.factor[axis] == 1 && g.conv.kernel[axis] == 1) continue;
    const int64_t outer = std::accumulate(extent, extent + axis, int64_t(1), std::multiplies<>());
    const int64_t inner = std::accumulate(extent + axis + 1, extent + 3, lanes, std::multiplies<>());
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t j = 0; j < to[axis]; ++j) {
        T* sum = b + (o * to[axis] + j) * inner;
        const int64_t run = g.conv.kernel[axis] - 1 - j;
        const int64_t begin = std::max<int64_t>(0, run), end = std::min(extent[axis], run + g.factor[axis]);
        std::copy_n(a + (o * extent[axis] + begin) * inner, inner, sum);
        for (int64_t k = begin + 1; k < end; ++k) {
          const T* term = a + (o * extent[axis] + k) * inner;
          for (int64_t i = 0; i < inner; ++i) sum[i] += term[i];
        }
      }
    extent[axis] = to[axis];
    std::swap(a, b);
  }
  return a;
}

// v(C, O/groups, KD + fd - 1, ...) on `data`, output channels innermost.
template <class T>
View<T> merged_view(T* data, const ConvGeometry& s) {
  View<T> v{data, 5, {s.out_channels, s.in_channels / s.groups, s.kernel[0], s.kernel[1], s.kernel[2]}, {}};
  v.stride[1] = 1, v.stride[4] = v.shape[1];
  for (const int i : {3, 2}) v.stride[i] = v.stride[i + 1] * v.shape[i + 1];
  v.stride[0] = v.stride[2] * v.shape[2];
  return v;
}

// element(address in w, index in (tap, output)) for the kernels of input channel c, its group's output channels.
template <class T, class F>
void for_kernels(const View<T>& w, const ConvGeometry& g, int64_t c, F&& element) {
  const int64_t inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  T* from = w.data + c / inputs * outputs * w.stride[0] + c % inputs * w.stride[1];
  int64_t i = 0;
  for (int64_t d = 0; d < w.shape[2]; ++d)
    for (int64_t h = 0; h < w.shape[3]; ++h)
      for (int64_t k = 0; k < w.shape[4]; ++k) {
        T* tap = from + d * w.stride[2] + h * w.stride[3] + k * w.stride[4];
        for (int64_t o = 0; o < outputs; ++o) element(tap[o * w.stride[0]], i++);
      }
}

template <class T>
Prepared<T> merged_taps(const View<const T>& w, const ConvGeometry& s, const UpsampleConvGeometry& g) {
  return Prepared<T>(w.data, s.weights(), [&](T* merged) {
    const View<T> v = merged_view(merged, s);
    parallel_for(g.conv.in_channels, [&](int64_t c) {
      const int64_t size = v.stride[0];
      Scratch<T> a(size), b(size);
      for_kernels(w, g.conv, c, [&](const T& value, int64_t i) { a.get()[i] = value; });
      std::copy_n(sum_runs(a.get(), b.get(), g.conv.kernel, v.shape + 2, v.shape[1], g), size, v.data + c * size);
    });
  });
}

}  // namespace

template <class T>
void upsample_conv(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a) {
  const ConvGeometry s = g.strided();
  const Prepared<T> merged = merged_taps(w.volume(), s, g);
  conv_transpose<T>(x, merged_view<const T>(merged.get(), s), y, s, a);
}

template <class T>
void upsample_conv_transpose(View<const T> y, View<const T> w, View<T> x, const UpsampleConvGeometry& g,
                             ConvAlgorithm a) {
  const ConvGeometry s = g.strided();
  const Prepared<T> merged = merged_taps(w.volume(), s, g);
  conv<T>(y, merged_view<const T>(merged.get(), s), x, s, a);
}

template <class T>
void upsample_conv_weight(View<const T> x, View<const T> y, View<T> w, const UpsampleConvGeometry& g, ConvAlgorithm a) {
  const ConvGeometry s = g.strided();
  Scratch<T> merged(s.weights());
  const View<T> v = merged_view(merged.get(), s);
  conv_weight<T>(y, x, v, s, a);
  const View<T> target = w.volume();
  parallel_for(g.conv.in_channels, [&](int64_t c) {
    Scratch<T> other(v.stride[0]);
    const T* sums = sum_runs(v.data + c * v.stride[0], other.get(), s.kernel, g.conv.kernel, v.shape[1], g);
    for_kernels(target, g.conv, c, [&](T& value, int64_t i) { value = sums[i]; });
  });
}

#define GK_INSTANTIATE(T)                                                                                            \
  template void upsample_conv<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&, ConvAlgorithm); \
  template void upsample_conv_transpose<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,       \
                                           ConvAlgorithm);                                                           \
  template void upsample_conv_weight<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,          \
                                        ConvAlgorithm);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
