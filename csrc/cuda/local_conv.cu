// Locally connected convolution: a kernel of its own at every output position, so every position (or, for the input
// gradient, every cell) is a product of its own: a batch of small products in the letters of gemm.hpp.
//   forward          batch = p   m = n         n = o   k = (c, tap)
//   input gradient   batch = q   m = n         n = c   k = (o, i), the taps that touch cell q and their positions
//   weight gradient  batch = p   m = (c, tap)  n = o   k = n
// w has the strides of (O, C/groups, P, K) with P and K row-major.
#include <algorithm>

#include "../core/error.hpp"
#include "conv_paths.hpp"
#include "kernels.hpp"

namespace gk::cuda {
namespace {

// Strides of the three axes of a row-major index of element stride `stride`.
void row_major(const int64_t* extent, int64_t stride, int64_t* strides) {
  strides[2] = stride, strides[1] = strides[2] * extent[2], strides[0] = strides[1] * extent[1];
}

}  // namespace

template <class T>
void local_conv(View<const T> x_view, View<const T> w, View<T> y_view, const ConvGeometry& g) {
  const View<const T> x = x_view.volume();
  const View<T> y = y_view.volume();
  GK_CHECK(fits_cells(g), "cells beyond 2^28");
  Gemm<T> p;
  read_image(p.a, x, g, p.a.batch, p.a.inner);
  p.batch = digits(g.groups, g.y), p.n.outer = g.out_channels / g.groups;
  p.m.outer = g.batch, p.k = digits(g.in_channels / g.groups, g.kernel);
  p.a.line.stride[0] = x.stride[0], p.a.inner.stride[0] = x.stride[1];
  p.b.data = w.data, p.b.inner_fastest = true;
  p.b.line.stride[0] = w.stride[0], p.b.inner.stride[0] = w.stride[1], p.b.batch.stride[0] = p.n.outer * w.stride[0];
  row_major(g.y, w.stride[2], p.b.batch.stride + 1);
  row_major(g.kernel, w.stride[3], p.b.inner.stride + 1);
  p.c = y.data;
  p.c_m[0] = y.stride[0], p.c_n[0] = y.stride[1], p.c_batch[0] = p.n.outer * y.stride[1];
  std::copy_n(y.stride + 2, 3, p.c_batch + 1);
  run_gemm(p, Precision::fma);
}

template <class T>
void local_conv_transpose(View<const T> y_view, View<const T> w, View<T> x_view, const ConvGeometry& g) {
  const View<const T> y = y_view.volume();
  const View<T> x = x_view.volume();
  GK_CHECK(fits_cells(g), "cells beyond 2^28");
  int64_t position[3], tap[3];
  row_major(g.y, w.stride[2], position);
  row_major(g.kernel, w.stride[3], tap);
  Gemm<T> p;
  p.phased = true;
  p.batch = digits(g.groups, g.x);
  p.m.outer = g.batch, p.n.outer = g.in_channels / g.groups, p.k.outer = g.out_channels / g.groups;
  p.a.data = y.data, p.b.data = w.data, p.c = x.data;
  p.a.image = p.b.image = true;  // where no position of y is, there is no kernel either
  p.b.inner_fastest = true;
  p.a.line.stride[0] = y.stride[0], p.a.inner.stride[0] = y.stride[1];
  p.a.batch.stride[0] = p.k.outer * y.stride[1];
  p.b.line.stride[0] = w.stride[1], p.b.inner.stride[0] = w.stride[0];
  p.b.batch.stride[0] = p.k.outer * w.stride[0];
  p.c_m[0] = x.stride[0], p.c_n[0] = x.stride[1], p.c_batch[0] = p.n.outer * x.stride[1];
  for (int i = 0; i < 3; ++i) {
    const PhaseAxis& phase = p.phase[i] = phase_axis(g, i);
    p.c_batch[i + 1] = x.stride[i + 2];
    p.a.batch.stride[i + 1] = y.stride[i + 2], p.b.batch.stride[i + 1] = position[i];
    p.a.inner.stride[i + 1] = -phase.back * y.stride[i + 2];
    p.b.inner.stride[i + 1] = -phase.back * position[i] + phase.every * tap[i];
    p.b.tap_stride[i] = tap[i];
    for (Operand<T>* o : {&p.a, &p.b}) {
      o->bound[i] = static_cast<int>(g.y[i]);
      o->batch.step[i] = 1, o->inner.step[i] = static_cast<int>(-phase.back);
    }
  }
  run_gemm(p, Precision::fma);
}

template <class T>
void local_conv_weight(View<const T> x_view, View<const T> y_view, View<T> w, const ConvGeometry& g) {
  const View<const T> x = x_view.volume(), y = y_view.volume();
  GK_CHECK(fits_cells(g), "cells beyond 2^28");
  Gemm<T> p;
  read_image(p.a, x, g, p.a.batch, p.a.line);
  p.batch = digits(g.groups, g.y), p.n.outer = g.out_channels / g.groups;
  p.m = digits(g.in_channels / g.groups, g.kernel), p.k.outer = g.batch;
  p.a.line.stride[0] = x.stride[1], p.a.inner.stride[0] = x.stride[0];
  p.b.data = y.data;
  p.b.line.stride[0] = y.stride[1], p.b.inner.stride[0] = y.stride[0], p.b.batch.stride[0] = p.n.outer * y.stride[1];
  std::copy_n(y.stride + 2, 3, p.b.batch.stride + 1);
  p.c = w.data;
  p.c_m[0] = w.stride[1], p.c_n[0] = w.stride[0], p.c_batch[0] = p.n.outer * w.stride[0];
  row_major(g.kernel, w.stride[3], p.c_m + 1);
  row_major(g.y, w.stride[2], p.c_batch + 1);
  run_gemm(p, Precision::fma);
}

#define GK_INSTANTIATE(T)                                                                            \
  template void local_conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);           \
  template void local_conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void local_conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
