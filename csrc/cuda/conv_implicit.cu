// Convolution as products of the arrays themselves (implicit GEMM): in the letters of gemm.hpp, m are positions or
// taps of an image (the long index), n channels of the other side, k what is summed.
//   forward          m = (n, p)    n = o   k = (c, tap)   a = x at stride*p + dilation*tap - pad   b = w
//   input gradient   m = (n, t)    n = c   k = (o, i)     a = y at position(q) + t - back*i        b = w, tap first +
//   i*every weight gradient  m = (c, tap)  n = o   k = (n, p)     a = x as above                           b = y
// The input gradient runs phase by phase: cells q, q + stride, ... see the same taps, so each phase is dense and every
// cell is written once. The weight gradient sums over images and positions and is therefore cut along k (gemm.cuh).
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "conv_paths.hpp"

namespace gk::cuda {
namespace {

// The number whose product with a is 1 modulo m, for coprime a and m (Euclid).
int64_t modular_inverse(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, t0 = 0, t1 = 1;
  while (r1 != 0) {
    const int64_t q = r0 / r1;
    r0 -= q * r1, std::swap(r0, r1);
    t0 -= q * t1, std::swap(t0, t1);
  }
  return (t0 % m + m) % m;
}

}  // namespace

bool fits_cells(const ConvGeometry& g) {
  for (int i = 0; i < 3; ++i) {
    const int64_t reach = g.stride[i] * (g.y[i] - 1) + g.dilation[i] * (g.kernel[i] - 1);
    if (reach + std::abs(g.pad_lo[i]) + g.x[i] >= kLargestCell) return false;
  }
  return true;
}

PhaseAxis phase_axis(const ConvGeometry& g, int axis) {
  PhaseAxis p;
  p.stride = g.stride[axis], p.dilation = g.dilation[axis], p.pad = g.pad_lo[axis];
  p.kernel = g.kernel[axis], p.cells = g.x[axis];
  p.divisor = std::gcd(p.stride, p.dilation);
  p.every = p.stride / p.divisor, p.back = p.dilation / p.divisor;
  p.inverse = modular_inverse(p.back, p.every);
  return p;
}

template <class T, class R>
Gemm<T> conv_product(View<const T> x, View<const T> w, View<R> y, const ConvGeometry& g) {
  Gemm<T> p;
  p.m = digits(g.batch, g.y), p.n.outer = g.out_channels / g.groups;
  p.k = digits(g.in_channels / g.groups, g.kernel), p.batch.outer = g.groups;
  read_image(p.a, x, g, p.a.line, p.a.inner);
  p.a.line.stride[0] = x.stride[0], p.a.inner.stride[0] = x.stride[1];
  p.b.data = w.data, p.b.inner_fastest = true;
  p.b.line.stride[0] = w.stride[0], p.b.batch.stride[0] = p.n.outer * w.stride[0];
  std::copy_n(w.stride + 1, 4, p.b.inner.stride);
  p.write_to(y.data);
  p.c_m[0] = y.stride[0], p.c_n[0] = y.stride[1], p.c_batch[0] = p.n.outer * y.stride[1];
  std::copy_n(y.stride + 2, 3, p.c_m + 1);
  return p;
}

template <class T, class R>
Gemm<T> conv_transpose_product(View<const T> y, View<const T> w, View<R> x, const ConvGeometry& g) {
  Gemm<T> p;
  p.phased = p.lines_follow = true;
  p.n.outer = g.in_channels / g.groups;
  p.k = digits(g.out_channels / g.groups, g.kernel);
  p.m.outer = g.batch, p.batch.outer = g.groups;
  p.a.data = y.data, p.b.data = w.data;
  p.write_to(x.data);
  p.a.image = true;
  p.b.inner_fastest = true;
  p.a.line.stride[0] = y.stride[0], p.a.inner.stride[0] = y.stride[1];
  p.b.line.stride[0] = w.stride[1], p.b.inner.stride[0] = w.stride[0];
  p.c_m[0] = x.stride[0], p.c_n[0] = x.stride[1];
  p.a.batch.stride[0] = p.k.outer * y.stride[1], p.b.batch.stride[0] = p.k.outer * w.stride[0];
  p.c_batch[0] = p.n.outer * x.stride[1];
  for (int i = 0; i < 3; ++i) {
    const PhaseAxis& phase = p.phase[i] = phase_axis(g, i);
    p.batch.extent[i] = static_cast<int>(std::min(g.stride[i], g.x[i]));
    p.m.extent[i] = static_cast<int>((g.x[i] + g.stride[i] - 1) / g.stride[i]);
    p.a.bound[i] = static_cast<int>(g.y[i]);
    p.a.line.stride[i + 1] = p.a.batch.stride[i + 1] = y.stride[i + 2];
    p.a.line.step[i] = p.a.batch.step[i] = 1;
    p.a.inner.stride[i + 1] = -phase.back * y.stride[i + 2], p.a.inner.step[i] = static_cast<int>(-phase.back);
    p.b.inner.stride[i + 1] = phase.every * w.stride[i + 2], p.b.tap_stride[i] = w.stride[i + 2];
    p.c_m[i + 1] = g.stride[i] * x.stride[i + 2], p.c_batch[i + 1] = x.stride[i + 2];
  }
  return p;
}

template <class T, class R>
Gemm<T> conv_weight_product(View<const T> x, View<const T> y, View<R> w, const ConvGeometry& g) {
  Gemm<T> p;
  p.m = digits(g.in_channels / g.groups, g.kernel), p.n.outer = g.out_channels / g.groups;
  p.k = digits(g.batch, g.y), p.batch.outer = g.groups;
  read_image(p.a, x, g, p.a.inner, p.a.line);
  p.a.line.stride[0] = x.stride[1], p.a.inner.stride[0] = x.stride[0];
  p.a.inner_fastest = p.b.inner_fastest = true;
  p.b.data = y.data;
  p.b.line.stride[0] = y.stride[1], p.b.inner.stride[0] = y.stride[0], p.b.batch.stride[0] = p.n.outer * y.stride[1];
  std::copy_n(y.stride + 2, 3, p.b.inner.stride + 1);
  p.write_to(w.data);
  p.c_n[0] = w.stride[0], p.c_batch[0] = p.n.outer * w.stride[0];
  std::copy_n(w.stride + 1, 4, p.c_m);
  return p;
}

#define GK_INSTANTIATE(T, R)                                                                              \
  template Gemm<T> conv_product<T>(View<const T>, View<const T>, View<R>, const ConvGeometry&);           \
  template Gemm<T> conv_transpose_product<T>(View<const T>, View<const T>, View<R>, const ConvGeometry&); \
  template Gemm<T> conv_weight_product<T>(View<const T>, View<const T>, View<R>, const ConvGeometry&);
GK_INSTANTIATE(float, float)
GK_INSTANTIATE(double, double)
GK_INSTANTIATE(bfloat16, bfloat16)
GK_INSTANTIATE(bfloat16, float)

}  // namespace gk::cuda
