// Convolution of a nearest-upsampled image from the small image alone. Taps that fall into one small cell are summed
// beforehand: with the K + f - 1 sums v[j] = sum of w[k] over K - 1 - j <= k < K - 1 - j + f, the convolution is the
// adjoint of one of stride f and padding K - 1 - pad (negative crops). Its f phases are dense convolutions on the small
// image, in one launch (conv_implicit.cu); the gradient in x is that convolution of stride f, the gradient in w is that
// of v followed by the same sums, which are their own adjoint. The same identity as csrc/cpu/upsample_conv.cpp. Of
// bfloat16 the sums v are rounded, being factors of products; those of the gradient in w are not before they are added.
#include <algorithm>

#include "conv_paths.hpp"
#include "epilogue.hpp"
#include "index.cuh"
#include "kernels.hpp"
#include "launch.cuh"
#include "memory.hpp"

namespace gk::cuda {
namespace {

constexpr int kThreads = 256;

// out[j] = sum of in[K - 1 - j ... K - 2 - j + f] on each axis, zero outside; one thread an element of out. `in` is
// (A, B/groups, ...), `out` (B, A/groups, ...) of channels A and B.
template <class S, class T>
__global__ void sum_runs_kernel(View<const S> in, View<T> out, const UpsampleConvGeometry g, int64_t in_group,
                                int64_t out_group, int64_t total) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    int64_t at[5], rest = i;
    for (int axis = 4; axis >= 0; --axis) {
      const int64_t left = divide(rest, out.shape[axis]);
      at[axis] = rest - left * out.shape[axis];
      rest = left;
    }
    const int64_t group = at[0] / out_group;
    const S* from = in.data + (group * in_group + at[1]) * in.stride[0] + (at[0] - group * out_group) * in.stride[1];
    int64_t begin[3], end[3];
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t run = g.conv.kernel[axis] - 1 - at[axis + 2], beyond = run + g.factor[axis];
      begin[axis] = run > 0 ? run : 0;
      end[axis] = beyond < in.shape[axis + 2] ? beyond : in.shape[axis + 2];
    }
    Compute<T> sum = 0;
    for (int64_t d = begin[0]; d < end[0]; ++d)
      for (int64_t h = begin[1]; h < end[1]; ++h)
        for (int64_t w = begin[2]; w < end[2]; ++w) sum += from[d * in.stride[2] + h * in.stride[3] + w * in.stride[4]];
    int64_t to = 0;
    for (int axis = 0; axis < 5; ++axis) to += at[axis] * out.stride[axis];
    out.data[to] = static_cast<T>(sum);
  }
}

template <class S, class T>
void sum_runs(View<const S> in, View<T> out, const UpsampleConvGeometry& g) {
  const int64_t total = out.size(), groups = g.conv.groups;
  if (total == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((total + kThreads - 1) / kThreads, 1 << 20));
  launch({dim3(blocks), dim3(kThreads)}, sum_runs_kernel<S, T>, in, out, g, in.shape[0] / groups, out.shape[0] / groups,
         total);
}

// v(C, O/groups, KD + fd - 1, ...), row-major
template <class T>
View<T> merged_view(T* data, const ConvGeometry& s) {
  return row_major(data, {s.out_channels, s.in_channels / s.groups, s.kernel[0], s.kernel[1], s.kernel[2]});
}

template <class T>
void upsample_conv_then(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                        const Epilogue<T>& after) {
  const ConvGeometry s = g.strided();
  Scratch<T> merged(s.weights());
  sum_runs(w.volume(), merged_view(merged.data(), s), g);
  conv_transpose_then<T>(x, merged_view<const T>(merged.data(), s), y, s, a, after);
}

}  // namespace

template <class T>
void upsample_conv(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a) {
  upsample_conv_then(x, w, y, g, a, Epilogue<T>());
}

template <class T>
void upsample_conv_epilogue(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                            View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  upsample_conv_then(x, w, y, g, a, epilogue_of(y, bias, slope, p, seed, offset));
}

template <class T>
void upsample_conv_moments(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                           View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope,
                           double p, uint64_t seed, uint64_t offset) {
  with_moments(y, mean, variance, epilogue_of(y, bias, slope, p, seed, offset),
               [&](const Epilogue<T>& after) { upsample_conv_then(x, w, y, g, a, after); });
}

template <class T>
void upsample_conv_transpose(View<const T> y, View<const T> w, View<T> x, const UpsampleConvGeometry& g,
                             ConvAlgorithm a) {
  const ConvGeometry s = g.strided();
  Scratch<T> merged(s.weights());
  sum_runs(w.volume(), merged_view(merged.data(), s), g);
  conv<T>(y, merged_view<const T>(merged.data(), s), x, s, a);
}

template <class T>
void upsample_conv_weight(View<const T> x, View<const T> y, View<T> w, const UpsampleConvGeometry& g, ConvAlgorithm a) {
  const ConvGeometry s = g.strided();
  Scratch<Compute<T>> merged(s.weights());
  conv_weight_sums(y, x, merged_view(merged.data(), s), s, a);
  sum_runs(merged_view<const Compute<T>>(merged.data(), s), w.volume(), g);
}

#define GK_INSTANTIATE(T)                                                                                             \
  template void upsample_conv<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&, ConvAlgorithm);  \
  template void upsample_conv_transpose<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,        \
                                           ConvAlgorithm);                                                            \
  template void upsample_conv_weight<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,           \
                                        ConvAlgorithm);                                                               \
  template void upsample_conv_epilogue<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,         \
                                          ConvAlgorithm, View<const Compute<T>>, double, double, uint64_t, uint64_t); \
  template void upsample_conv_moments<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,          \
                                         ConvAlgorithm, View<Compute<T>>, View<Compute<T>>, View<const Compute<T>>,   \
                                         double, double, uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
