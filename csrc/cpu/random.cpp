// Random numbers by element position: any element can be drawn alone, so threads, chunks and strides change nothing.
#include <algorithm>
#include <cmath>

#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kAligned = 4;  // pieces start at a multiple of this, hence at a whole block
static_assert(kGrain % kStage == 0 && kStage % kAligned == 0);

// draw(output, n, index) fills elements [index, index + n) of the row-major order; index is a multiple of kStage.
template <class T, class F>
void draw_in_order(View<T> y, F&& draw) {
  if (y.is_contiguous()) {
    parallel_chunks(y.size(), kGrain, [&](int64_t begin, int64_t end) { draw(y.data + begin, end - begin, begin); });
    return;
  }
  const auto loop = strided_loop(true, y);
  parallel_chunks(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    T buffer[kStage];
    for (int64_t i = begin; i < end; i += kStage) {
      const int64_t n = std::min(kStage, end - i);
      draw(buffer, n, i);
      const T* from = buffer;
      loop.runs(i, i + n, [&](int64_t count, const int64_t* at) {
        unstage(from, y.data + at[0], loop.inner_stride(0), count);
        from += count;
      });
    }
  });
}

template <class T>
constexpr int64_t kPerBlock = sizeof(T) == 4 ? 4 : 2;

}  // namespace

template <class T>
void random_uniform(View<T> y, uint64_t seed, uint64_t offset) {
  const auto f = elements<T>().uniform;
  draw_in_order(y, [&](T* output, int64_t n, int64_t i) { f(output, n, seed, offset + i / kPerBlock<T>); });
}

template <class T>
void random_normal(View<T> y, uint64_t seed, uint64_t offset) {
  const auto f = elements<T>().normal;
  draw_in_order(y, [&](T* output, int64_t n, int64_t i) { f(output, n, seed, offset + i / kPerBlock<T>); });
}

template <class T>
void dropout(View<const T> x, View<T> y, double p, uint64_t seed, uint64_t offset) {
  const auto f = elements<T>().dropout;
  // uniform >= p, exactly, as a comparison of 24-bit integers
  const auto threshold = static_cast<uint32_t>(std::ceil(p * 16777216.0));
  const double scale = p < 1.0 ? 1.0 / (1.0 - p) : 0.0;
  const auto draw = [&](const T* input, T* output, int64_t n, int64_t i) {
    f(input, output, n, threshold, scale, seed, offset + i / 4);
  };
  if (x.is_contiguous()) {
    draw_in_order(y, [&](T* output, int64_t n, int64_t i) { draw(x.data + i, output, n, i); });
    return;
  }
  const auto loop = strided_loop(true, x);
  draw_in_order(y, [&](T* output, int64_t n, int64_t i) {
    T buffer[kStage];
    for (int64_t done = 0; done < n; done += kStage) {
      const int64_t count = std::min(kStage, n - done);
      T* to = buffer;
      loop.runs(i + done, i + done + count, [&](int64_t run, const int64_t* at) {
        for (int64_t j = 0; j < run; ++j) to[j] = x.data[at[0] + j * loop.inner_stride(0)];
        to += run;
      });
      draw(buffer, output + done, count, i + done);
    }
  });
}

#define GK_INSTANTIATE(T)                                       \
  template void random_uniform<T>(View<T>, uint64_t, uint64_t); \
  template void random_normal<T>(View<T>, uint64_t, uint64_t);  \
  template void dropout<T>(View<const T>, View<T>, double, uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
