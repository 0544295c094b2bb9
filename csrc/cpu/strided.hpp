// Loops over several strided arrays of one shape at once: axes are reordered and merged first, so that most problems
// become one contiguous run or a few long ones; then the elements are cut into tasks by the shape alone.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "../core/view.hpp"
#include "parallel.hpp"

namespace gk::cpu {

// Elements per task: smaller problems run on the calling thread, for waking a worker costs microseconds.
inline constexpr int64_t kGrain = 16384;
// Elements of a stack buffer that makes a strided run contiguous.
inline constexpr int64_t kStage = 512;

template <int Operands>
struct StridedLoop {
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[Operands][kMaxRank] = {};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t inner_stride(int operand) const { return stride[operand][rank - 1]; }

  void swap_axes(int i, int j) {
    std::swap(shape[i], shape[j]);
    for (auto& s : stride) std::swap(s[i], s[j]);
  }

  // Puts axes in the order in which they lie in memory, first by operand 0, then by the others.
  void sort() {
    const auto outside = [&](int i, int j) {
      for (const auto& s : stride)
        if (std::abs(s[i]) != std::abs(s[j])) return std::abs(s[i]) > std::abs(s[j]);
      return false;
    };
    for (int i = 1; i < rank; ++i)
      for (int j = i; j > 0 && outside(j, j - 1); --j) swap_axes(j, j - 1);
  }

  // Merges neighbours that every operand walks as one axis. At least one axis remains.
  void merge() {
    int last = -1;
    for (int i = 0; i < rank; ++i) {
      if (shape[i] == 1) continue;
      bool joins = last >= 0;
      for (const auto& s : stride) joins = joins && s[last] == s[i] * shape[i];
      const int64_t extent = joins ? shape[last] * shape[i] : shape[i];
      if (!joins) ++last;
      shape[last] = extent;
      for (auto& s : stride) s[last] = s[i];
    }
    if (last < 0) {
      last = 0;
      shape[0] = 1;
      for (auto& s : stride) s[0] = 1;
    }
    rank = last + 1;
  }

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
    parallel_chunks(size(), kGrain, [&](int64_t begin, int64_t end) { runs(begin, end, run); });
  }
};

// `keep_order` leaves the row-major order of the axes, for kernels whose values depend on the position.
template <class T0, class... T>
StridedLoop<1 + sizeof...(T)> strided_loop(bool keep_order, const View<T0>& first, const View<T>&... others) {
  StridedLoop<1 + sizeof...(T)> loop;
  loop.rank = first.rank;
  if (first.rank == 0) loop.rank = 1, loop.shape[0] = 1;
  for (int i = 0; i < first.rank; ++i) {
    loop.shape[i] = first.shape[i];
    int k = 0;
    loop.stride[k++][i] = first.stride[i];
    ((loop.stride[k++][i] = others.stride[i]), ...);
  }
  if (!keep_order) loop.sort();
  loop.merge();
  return loop;
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
