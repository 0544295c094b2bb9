// Nearest upsampling by whole factors, which come from the shapes, and its adjoint: neither needs a kernel of its own.
// With every spatial axis of the large image split in two, (N, C, D, fd, H, fh, W, fw), one is a copy of a broadcast
// array, the other a sum over three axes.
#include "kernels.hpp"

namespace gk::cuda {
namespace {

// The large image in eight axes, and the small one with extents of `repeat` where the large one has its factors.
template <class Large, class Small>
void split_axes(const View<Large>& large, const View<Small>& small, bool repeat, View<Large>* large8,
                View<Small>* small8) {
  large8->data = large.data;
  small8->data = small.data;
  large8->rank = small8->rank = 8;
  for (int i = 0; i < 2; ++i) {
    large8->shape[i] = large.shape[i], large8->stride[i] = large.stride[i];
    small8->shape[i] = small.shape[i], small8->stride[i] = small.stride[i];
  }
  for (int i = 2; i < 5; ++i) {
    const int outer = 2 * i - 2, inner = outer + 1;
    const int64_t factor = large.shape[i] / small.shape[i];
    large8->shape[outer] = small8->shape[outer] = small.shape[i];
    large8->stride[outer] = large.stride[i] * factor;
    large8->shape[inner] = factor;
    large8->stride[inner] = large.stride[i];
    small8->stride[outer] = small.stride[i];
    small8->shape[inner] = repeat ? factor : 1;
    small8->stride[inner] = 0;
  }
}

}  // namespace

template <class T>
void upsample_nearest(View<const T> x, View<T> y) {
  if (y.size() == 0) return;
  View<T> y8;
  View<const T> x8;
  split_axes(y.volume(), x.volume(), true, &y8, &x8);
  copy(x8, y8);
}

template <class T>
void sum_blocks(View<const T> y, View<T> x) {
  if (x.size() == 0) return;
  View<const T> y8;
  View<T> x8;
  split_axes(y.volume(), x.volume(), false, &y8, &x8);
  sum(y8, x8);
}

#define GK_INSTANTIATE(T)                                    \
  template void upsample_nearest<T>(View<const T>, View<T>); \
  template void sum_blocks<T>(View<const T>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
