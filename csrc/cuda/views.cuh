// Strided arrays for device code: View (core/view.hpp) is the host's; here are its data pointer with the axes that a
// kernel walks, reordered and merged, and a division by each extent that needs no division instruction.
#pragma once

#include <algorithm>

#include "../core/axes.hpp"
#include "../core/error.hpp"
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
struct HostAxes : CommonAxes<K> {
  using CommonAxes<K>::rank, CommonAxes<K>::shape, CommonAxes<K>::stride;

  void merge() { CommonAxes<K>::merge(kMaxIndex); }

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
    const int64_t total = this->size(), inner = shape[0] > 0 ? total / shape[0] : 0;
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
  return common_axes<HostAxes<1 + sizeof...(T)>>(keep_order, first, others...);
}

}  // namespace gk::cuda
