// A borrowed, strided, typed array: what every kernel takes and fills.
// Strides count elements, not bytes, and may be zero (a broadcast axis) or negative.
#pragma once

#include <cstdint>

namespace gk {

using std::int64_t;

inline constexpr int kMaxRank = 8;

// Pieces of b > 0 that cover a.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

template <class T>
struct View {
  T* data = nullptr;
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  // True if the elements lie in row-major order without gaps.
  bool is_contiguous() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }

  // (N, C, W) or (N, C, H, W) as (N, C, D, H, W): missing spatial axes become leading extents of 1.
  View volume() const {
    View v;
    v.data = data;
    v.rank = 5;
    const int missing = 5 - rank;
    for (int i = 0; i < 5; ++i) {
      if (i < 2) {
        v.shape[i] = shape[i], v.stride[i] = stride[i];
      } else if (i < 2 + missing) {
        v.shape[i] = 1, v.stride[i] = 0;
      } else {
        v.shape[i] = shape[i - missing], v.stride[i] = stride[i - missing];
      }
    }
    return v;
  }
};

}  // namespace gk
