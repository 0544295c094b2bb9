// The axes that several strided arrays of one shape are walked along together, put in order for that on the host.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "view.hpp"

namespace gk {

template <int Arrays>
struct CommonAxes {
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[Arrays][kMaxRank] = {};  // in elements

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  // One more axis, inside of those before it.
  template <class... S>
  void push(int64_t n, S... strides) {
    static_assert(sizeof...(S) == Arrays);
    shape[rank] = n;
    int k = 0;
    ((stride[k++][rank] = strides), ...);
    ++rank;
  }

  // The order in which axes lie in memory, outer ones first: by array 0, then by the others.
  void sort() {
    const auto outside = [&](int i, int j) {
      for (const auto& s : stride)
        if (std::abs(s[i]) != std::abs(s[j])) return std::abs(s[i]) > std::abs(s[j]);
      return false;
    };
    for (int i = 1; i < rank; ++i)
      for (int j = i; j > 0 && outside(j, j - 1); --j) swap(j, j - 1);
  }

  // Joins neighbours that every array walks as one axis, of fewer than `limit` elements, and drops axes of extent 1. At
  // least one axis remains.
  void merge(int64_t limit = INT64_MAX) {
    int last = -1;
    for (int i = 0; i < rank; ++i) {
      if (shape[i] == 1) continue;
      bool joins = last >= 0 && shape[last] * shape[i] < limit;
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

 private:
  void swap(int i, int j) {
    std::swap(shape[i], shape[j]);
    for (auto& s : stride) std::swap(s[i], s[j]);
  }
};

// The axes of arrays of one shape; `keep_order` where values depend on the row-major position.
template <class Axes, class T0, class... T>
Axes common_axes(bool keep_order, const View<T0>& first, const View<T>&... others) {
  Axes axes;
  for (int i = 0; i < first.rank; ++i) axes.push(first.shape[i], first.stride[i], others.stride[i]...);
  if (!keep_order) axes.sort();
  axes.merge();
  return axes;
}

}  // namespace gk
