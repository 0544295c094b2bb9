// im2col and its adjoint: cols(N, C*K, P) as torch.nn.functional.unfold orders them (Chellapilla et al., 2006).
#include "columns.hpp"

#include <algorithm>

#include "kernels.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

// Outputs [first, last) of one axis that read inside x with tap k.
struct Inside {
  int64_t first, last;
  Inside(const ConvGeometry& g, int axis, int64_t k) {
    const int64_t s = g.stride[axis], e = g.dilation[axis] * k - g.pad_lo[axis];
    first = e >= 0 ? 0 : (-e + s - 1) / s;
    last = g.x[axis] > e ? (g.x[axis] - 1 - e) / s + 1 : 0;
    first = std::min(first, g.y[axis]);
    last = std::max(first, std::min(last, g.y[axis]));
  }
};

// Calls row(p, at, count): positions p, p+1, ... (of the whole volume) read cells at, at + stride, ... of the x row
// that starts at `at`; only those inside x, for one tap (kd, kh, kw) and positions in [begin, end).
template <class Row>
void for_rows(const ConvGeometry& g, const int64_t* x_stride, int64_t kd, int64_t kh, int64_t kw, int64_t begin,
              int64_t end, Row row) {
  const Inside d(g, 0, kd), h(g, 1, kh), w(g, 2, kw);
  const int64_t plane = g.y[1] * g.y[2];
  for (int64_t i = std::max(d.first, begin / plane); i < d.last && i * plane < end; ++i)
    for (int64_t j = h.first; j < h.last; ++j) {
      const int64_t line = (i * g.y[1] + j) * g.y[2];
      const int64_t first = std::max(w.first, begin - line), last = std::min(w.last, end - line);
      if (first >= last) continue;
      const int64_t at = (g.stride[0] * i + g.dilation[0] * kd - g.pad_lo[0]) * x_stride[0] +
                         (g.stride[1] * j + g.dilation[1] * kh - g.pad_lo[1]) * x_stride[1] +
                         (g.stride[2] * first + g.dilation[2] * kw - g.pad_lo[2]) * x_stride[2];
      row(line + first, at, last - first);
    }
}

}  // namespace

template <class T>
void channel_columns(const T* x, const int64_t* x_stride, const ConvGeometry& g, int64_t begin, int64_t end, T* cols,
                     int64_t row_stride, int64_t stride) {
  const int64_t step = g.stride[2] * x_stride[2];
  for (int64_t k = 0; k < g.taps(); ++k, cols += row_stride) {
    for (int64_t p = 0; p < end - begin; ++p) cols[p * stride] = T(0);
    for_rows(g, x_stride, k / (g.kernel[1] * g.kernel[2]), k / g.kernel[2] % g.kernel[1], k % g.kernel[2], begin, end,
             [&](int64_t p, int64_t at, int64_t count) {
               T* to = cols + (p - begin) * stride;
               for (int64_t i = 0; i < count; ++i) to[i * stride] = x[at + i * step];
             });
  }
}

template <class T>
void add_channel_columns(const T* cols, int64_t row_stride, int64_t stride, const ConvGeometry& g, int64_t begin,
                         int64_t end, T* x, const int64_t* x_stride) {
  const int64_t step = g.stride[2] * x_stride[2];
  for (int64_t k = 0; k < g.taps(); ++k, cols += row_stride)
    for_rows(g, x_stride, k / (g.kernel[1] * g.kernel[2]), k / g.kernel[2] % g.kernel[1], k % g.kernel[2], begin, end,
             [&](int64_t p, int64_t at, int64_t count) {
               const T* from = cols + (p - begin) * stride;
               for (int64_t i = 0; i < count; ++i) x[at + i * step] += from[i * stride];
             });
}

template <class T>
void im2col(View<const T> x, View<T> cols, const ConvGeometry& g) {
  const View<const T> v = x.volume();
  if (cols.size() == 0) return;
  parallel_for(g.batch * g.in_channels, [&](int64_t i) {
    const int64_t n = i / g.in_channels, c = i % g.in_channels;
    channel_columns(v.data + n * v.stride[0] + c * v.stride[1], v.stride + 2, g, 0, g.y_volume(),
                    cols.data + n * cols.stride[0] + c * g.taps() * cols.stride[1], cols.stride[1], cols.stride[2]);
  });
}

template <class T>
void col2im(View<const T> cols, View<T> x, const ConvGeometry& g) {
  const View<T> v = x.volume();
  if (x.size() == 0) return;
  fill<T>(x, 0.0);
  if (g.y_volume() == 0) return;
  parallel_for(g.batch * g.in_channels, [&](int64_t i) {
    const int64_t n = i / g.in_channels, c = i % g.in_channels;
    add_channel_columns(cols.data + n * cols.stride[0] + c * g.taps() * cols.stride[1], cols.stride[1], cols.stride[2],
                        g, 0, g.y_volume(), v.data + n * v.stride[0] + c * v.stride[1], v.stride + 2);
  });
}

#define GK_INSTANTIATE(T)                                                                                     \
  template void channel_columns(const T*, const int64_t*, const ConvGeometry&, int64_t, int64_t, T*, int64_t, \
                                int64_t);                                                                     \
  template void add_channel_columns(const T*, int64_t, int64_t, const ConvGeometry&, int64_t, int64_t, T*,    \
                                    const int64_t*);                                                          \
  template void im2col<T>(View<const T>, View<T>, const ConvGeometry&);                                       \
  template void col2im<T>(View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
