// Strided arrays for device code: View (core/view.hpp) is the host's; here are its data pointer with the axes that a
// kernel walks, reordered and merged, and a division by each extent that needs no division instruction.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "../core/error.hpp"
#include "../core/view.hpp"
#include "device.cuh"

namespace gk::cuda {

// n / divisor and n % divisor for 0 <= n < 2^31 by one multiplication (Granlund and Montgomery, 1994).
struct Divider {
  uint32_t divisor = 1, multiplier = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(static_cast<uint32_t>(d > 0 ? d : 1)) {  // 0: of an empty array, never used
    while (shift < 31 && (uint64_t(1) << shift) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor)) / divisor + 1);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
  __device__ __forceinline__ uint32_t split(uint32_t n, uint32_t* rest) const {
    const uint32_t q = divide(n);
    *rest = n - q * divisor;
    return q;
  }
};

constexpr int64_t kMaxIndex = int64_t(1) << 31;  // elements of one launch, for Divider

// Axes that K arrays are walked along together, outermost first. Offsets count elements.
template <int K>
struct Axes {
  int rank = 0;
  Divider extent[kMaxRank];
  int64_t stride[K][kMaxRank];

  // offsets of element i in row-major order; the outermost axis takes what is left of i
  __device__ __forceinline__ void offsets(uint32_t i, int64_t (&offset)[K]) const {
    GK_UNROLL
    for (int k = 0; k < K; ++k) offset[k] = 0;
    GK_UNROLL
    for (int axis = kMaxRank - 1; axis > 0; --axis) {
      if (axis >= rank) continue;
      uint32_t at;
      i = extent[axis].split(i, &at);
      GK_UNROLL
      for (int k = 0; k < K; ++k) offset[k] += at * stride[k][axis];
    }
    GK_UNROLL
    for (int k = 0; k < K; ++k) offset[k] += i * stride[k][0];
  }
};

// The same on the host, while axes are put in order.
template <int K>
struct HostAxes {
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[K][kMaxRank] = {};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  template <class... S>
  void push(int64_t n, S... strides) {
    static_assert(sizeof...(S) == K);
    shape[rank] = n;
    int k = 0;
    ((stride[k++][rank] = strides), ...);
    ++rank;
  }

  // Outer axes first in memory: by array 0, then by the others.
  void sort() {
    const auto outside = [&](int i, int j) {
      for (const auto& s : stride)
        if (std::abs(s[i]) != std::abs(s[j])) return std::abs(s[i]) > std::abs(s[j]);
      return false;
    };
    for (int i = 1; i < rank; ++i)
      for (int j = i; j > 0 && outside(j, j - 1); --j) {
        std::swap(shape[j], shape[j - 1]);
        for (auto& s : stride) std::swap(s[j], s[j - 1]);
      }
  }

  // Joins neighbours that every array walks as one axis, and drops axes of extent 1. At least one axis remains.
  void merge() {
    int last = -1;
    for (int i = 0; i < rank; ++i) {
      if (shape[i] == 1) continue;
      bool joins = last >= 0 && shape[last] * shape[i] < kMaxIndex;
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

  Axes<K> device() const {
    Axes<K> axes;
    axes.rank = rank;
    for (int i = 0; i < rank; ++i) {
      axes.extent[i] = Divider(shape[i]);
      for (int k = 0; k < K; ++k) axes.stride[k][i] = stride[k][i];
    }
    return axes;
  }

  // Calls body(axes, offsets) for parts of fewer than kMaxIndex elements, cut along the outermost axis.
  template <class F>
  void in_parts(F&& body) const {
    const int64_t total = size(), inner = shape[0] > 0 ? total / shape[0] : 0;
    if (total == 0) return;
    GK_CHECK(inner < kMaxIndex, "an inner axis of more than 2^31 elements");
    const int64_t rows = std::max<int64_t>(1, (kMaxIndex - 1) / inner);
    for (int64_t first = 0; first < shape[0]; first += rows) {
      HostAxes part = *this;
      part.shape[0] = std::min(rows, shape[0] - first);
      int64_t offset[K];
      for (int k = 0; k < K; ++k) offset[k] = first * stride[k][0];
      body(part, offset);
    }
  }
};

// The axes of arrays of one shape; `keep_order` where values depend on the row-major position.
template <class T0, class... T>
HostAxes<1 + sizeof...(T)> walk(bool keep_order, const View<T0>& first, const View<T>&... others) {
  HostAxes<1 + sizeof...(T)> axes;
  for (int i = 0; i < first.rank; ++i) axes.push(first.shape[i], first.stride[i], others.stride[i]...);
  if (!keep_order) axes.sort();
  axes.merge();
  return axes;
}

}  // namespace gk::cuda
