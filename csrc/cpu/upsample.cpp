// Nearest upsampling by whole factors, which come from the shapes, and its adjoint.
#include <algorithm>
#include <vector>

#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

// body(n, c, d, h) for every row of the small image, in parallel; `cost` in elements.
template <class T, class F>
void for_rows(const View<T>& small, int64_t cost, F&& body) {
  const int64_t C = small.shape[1], D = small.shape[2], H = small.shape[3];
  parallel_chunks(small.shape[0] * C * D * H, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t r = begin; r < end; ++r) body(r / (H * D * C), r / (H * D) % C, r / H % D, r % H);
                  });
}

template <class T>
T* row_of(const View<T>& v, int64_t n, int64_t c, int64_t d, int64_t h) {
  return v.data + n * v.stride[0] + c * v.stride[1] + d * v.stride[2] + h * v.stride[3];
}

}  // namespace

template <class T>
void upsample_nearest(View<const T> x_any, View<T> y_any) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  if (y.size() == 0) return;
  const int64_t W = x.shape[4], fd = y.shape[2] / x.shape[2], fh = y.shape[3] / x.shape[3], fw = y.shape[4] / W;
  const auto& table = elements<T>();
  for_rows(x, fd * fh * fw * W, [&](int64_t n, int64_t c, int64_t d, int64_t h) {
    thread_local std::vector<T> buffer;
    buffer.resize(static_cast<size_t>(W + W * fw));
    const T* from = row_of(x, n, c, d, h);
    if (x.stride[4] != 1) {
      for (int64_t w = 0; w < W; ++w) buffer[w] = from[w * x.stride[4]];
      from = buffer.data();
    }
    T* repeated = buffer.data() + W;
    table.repeat(from, repeated, W, fw);
    for (int64_t i = 0; i < fd; ++i)
      for (int64_t j = 0; j < fh; ++j) {
        T* to = row_of(y, n, c, d * fd + i, h * fh + j);
        if (y.stride[4] == 1) {
          std::copy(repeated, repeated + W * fw, to);
        } else {
          unstage(repeated, to, y.stride[4], W * fw);
        }
      }
  });
}

template <class T>
void sum_blocks(View<const T> y_any, View<T> x_any) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  if (x.size() == 0) return;
  const int64_t W = x.shape[4], fd = y.shape[2] / x.shape[2], fh = y.shape[3] / x.shape[3], fw = y.shape[4] / W;
  const auto& table = elements<T>();
  for_rows(x, fd * fh * fw * W, [&](int64_t n, int64_t c, int64_t d, int64_t h) {
    thread_local std::vector<double> total;
    total.assign(static_cast<size_t>(W), 0.0);
    for (int64_t i = 0; i < fd; ++i)
      for (int64_t j = 0; j < fh; ++j) {
        const T* from = row_of(y, n, c, d * fd + i, h * fh + j);
        for (int64_t k = 0; k < fw; ++k) table.add_tap(from + k * y.stride[4], fw * y.stride[4], W, total.data());
      }
    T* to = row_of(x, n, c, d, h);
    for (int64_t w = 0; w < W; ++w) to[w * x.stride[4]] = static_cast<T>(total[w]);
  });
}

#define GK_INSTANTIATE(T)                                    \
  template void upsample_nearest<T>(View<const T>, View<T>); \
  template void sum_blocks<T>(View<const T>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
