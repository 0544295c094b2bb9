// How a block brings slices of the operands of gemm.hpp into shared memory: where an index lies is worked out once a
// line and once a slice, into tables; an element then costs a sum and a bounds check.
#pragma once

#include "gemm.hpp"
#include "gemm_tiles.cuh"
#include "index.cuh"

namespace gk::cuda {

constexpr int kOutside = -(1 << 29);  // the cell of an index beyond the last: never inside, however often added

struct Entry {
  int64_t offset;
  int cell[3];
};

struct Place {
  int64_t outer;
  int digit[3];
  __device__ Place(int64_t i, const int* extent) {
    const int64_t w = divide(i, extent[2]), h = divide(w, extent[1]);
    digit[2] = static_cast<int>(i - w * extent[2]);
    digit[1] = static_cast<int>(w - h * extent[1]);
    outer = divide(h, extent[0]);
    digit[0] = static_cast<int>(h - outer * extent[0]);
  }
  __device__ int64_t offset(const int64_t* stride) const {
    return outer * stride[0] + digit[0] * stride[1] + digit[1] * stride[2] + digit[2] * stride[3];
  }
};

inline __device__ Entry entry(const Map& map, int64_t i, int64_t count, const int* extent) {
  Entry e{0, {kOutside, 0, 0}};
  if (i >= count) return e;
  const Place at(i, extent);
  e.offset = at.offset(map.stride);
  for (int axis = 0; axis < 3; ++axis) e.cell[axis] = at.digit[axis] * map.step[axis];
  return e;
}

// A thread's share of the slices of one operand, kLines lines each. Elements of 4 and 8 bytes are copied
// asynchronously; a word of two bfloat16, which lie anywhere, waits in registers between fetch and put.
template <class Tile, int kLines, int kRow>
class Share {
 public:
  using T = typename Tile::Element;
  using Word = typename Tile::Word;
  static constexpr int kPacked = sizeof(Word) / sizeof(T);  // neighbours along k in a word
  static constexpr bool kHeld = kPacked > 1;

  // Elements (line, k) with entries `line` and `inner` into s, or on their way to it.
  __device__ __forceinline__ void fetch(const T* data, const Operand<T>& o, const Entry* line, const Entry* inner,
                                        Word (*s)[kRow]) {
    if (o.inner_fastest) {
      Entry at[kPacked];
      GK_UNROLL
      for (int e = 0; e < kPacked; ++e) at[e] = inner[threadIdx.x % kRows * kPacked + e];
      for_words(true, [&](int word, int row, int l) { bring(data, o, line[l], at, word, &s[row][l]); });
    } else if constexpr (kThreads % kLines == 0) {
      const Entry at = line[threadIdx.x % kLines];
      for_words(false, [&](int word, int row, int l) { bring(data, o, at, inner + row * kPacked, word, &s[row][l]); });
    } else {
      for_words(false,
                [&](int word, int row, int l) { bring(data, o, line[l], inner + row * kPacked, word, &s[row][l]); });
    }
  }

  // What is held into s.
  __device__ __forceinline__ void put(const Operand<T>& o, Word (*s)[kRow]) const {
    if constexpr (kHeld) {
      const auto to = [&](int word, int row, int l) { s[row][l] = held_[word][0] | Word(held_[word][1]) << 16; };
      if (o.inner_fastest)
        for_words(true, to);
      else
        for_words(false, to);
    }
  }

 private:
  static constexpr int kThreads = Tile::kThreads, kRows = kSlice / kPacked, kWords = kLines * kRows,
                       kRounds = (kWords + kThreads - 1) / kThreads;
  static constexpr bool kWhole = kWords % kThreads == 0;
  static_assert(kThreads % kRows == 0);
  uint16_t held_[kHeld ? kRounds : 1][kPacked];

  // visit(number of the word, row, line) of this thread's words; lanes go along k or along lines
  template <class Visit>
  static __device__ __forceinline__ void for_words(bool along_k, Visit visit) {
    const auto round = [&](int r) {
      if (!kWhole && r * kThreads + threadIdx.x >= kWords) return;
      if (along_k)
        visit(r, threadIdx.x % kRows, r * (kThreads / kRows) + threadIdx.x / kRows);
      else if constexpr (kThreads % kLines == 0)
        visit(r, r * (kThreads / kLines) + threadIdx.x / kLines, threadIdx.x % kLines);
      else
        visit(r, (r * kThreads + threadIdx.x) / kLines, (r * kThreads + threadIdx.x) % kLines);
    };
    if constexpr (kHeld) {  // unrolled: registers have no index
      GK_UNROLL
      for (int r = 0; r < kRounds; ++r) round(r);
    } else {
      for (int r = 0; r < kRounds; ++r) round(r);
    }
  }

  static __device__ __forceinline__ bool is_inside(const Operand<T>& o, const Entry& l, const Entry& k) {
    bool inside = l.cell[0] + k.cell[0] >= 0;
    if (o.image) {
      GK_UNROLL
      for (int axis = 0; axis < 3; ++axis)
        inside &= static_cast<uint32_t>(l.cell[axis] + k.cell[axis]) < static_cast<uint32_t>(o.bound[axis]);
    }
    return inside;
  }

  __device__ __forceinline__ void bring(const T* data, const Operand<T>& o, const Entry& l, const Entry* k, int word,
                                        Word* to) {
    if constexpr (kHeld) {
      GK_UNROLL
      for (int e = 0; e < kPacked; ++e)
        held_[word][e] = is_inside(o, l, k[e]) ? data[l.offset + k[e].offset].bits : uint16_t(0);
    } else {
      const bool inside = is_inside(o, l, *k);
      cp_async<sizeof(T)>(to, data + (inside ? l.offset + k->offset : 0), inside);
    }
  }
};

}  // namespace gk::cuda
