// Loops over several strided arrays of one shape at once: axes are reordered and merged first, so that most problems
// become one contiguous run or a few long ones; then the elements are cut into tasks by the shape alone.
#pragma once

#include <cstdint>

#include "../core/axes.hpp"
#include "parallel.hpp"

namespace gk::cpu {

// Elements per task: smaller problems run on the calling thread, for waking a worker costs microseconds.
inline constexpr int64_t kGrain = 16384;
// Elements of a stack buffer that makes a strided run contiguous.
inline constexpr int64_t kStage = 512;

template <int Operands>
struct StridedLoop : CommonAxes<Operands> {
  using CommonAxes<Operands>::rank, CommonAxes<Operands>::shape, CommonAxes<Operands>::stride;

  int64_t inner_stride(int operand) const { return stride[operand][rank - 1]; }

  // Calls run(n, offsets) for the inner runs that make up elements [begin, end) of the loop.
  template <class F>
  void runs(int64_t begin, int64_t end, F&& run) const {
    int64_t index[kMaxRank], offset[Operands] = {};
    int64_t rest = begin;
    for (int i = rank - 1; i >= 0; --i) {
      index[i] = rest % shape[i];
      rest /= shape[i];
      for (int k = 0; k < Operands; ++k) offset[k] += index[i] * stride[k][i];
    }
    const int inner = rank - 1;
    while (begin < end) {
      const int64_t left = shape[inner] - index[inner];
      const int64_t n = left < end - begin ? left : end - begin;
      run(n, offset);
      begin += n;
      if (begin >= end) return;
      for (int k = 0; k < Operands; ++k) offset[k] -= index[inner] * stride[k][inner];
      index[inner] = 0;
      for (int i = inner - 1; i >= 0; --i) {
        for (int k = 0; k < Operands; ++k) offset[k] += stride[k][i];
        if (++index[i] < shape[i]) break;
        for (int k = 0; k < Operands; ++k) offset[k] -= shape[i] * stride[k][i];
        index[i] = 0;
      }
    }
  }

  template <class F>
  void parallel_runs(F&& run) const {
    parallel_chunks(this->size(), kGrain, [&](int64_t begin, int64_t end) { runs(begin, end, run); });
  }
};

// `keep_order` leaves the row-major order of the axes, for kernels whose values depend on the position.
template <class T0, class... T>
StridedLoop<1 + sizeof...(T)> strided_loop(bool keep_order, const View<T0>& first, const View<T>&... others) {
  return common_axes<StridedLoop<1 + sizeof...(T)>>(keep_order, first, others...);
}

// A run of n <= kStage elements, contiguous: the array itself, or a copy in `buffer`.
template <class T>
const T* staged(const T* x, int64_t stride, int64_t n, T* buffer) {
  if (stride == 1) return x;
  for (int64_t i = 0; i < n; ++i) buffer[i] = x[i * stride];
  return buffer;
}

template <class T>
void unstage(const T* buffer, T* y, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i * stride] = buffer[i];
}

}  // namespace gk::cpu
