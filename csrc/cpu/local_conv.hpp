// What the passes of a locally connected convolution share: which cells meet through which weights, views whose inner
// axes lie without gaps, and images in the vector lanes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "conv_table.hpp"
#include "kernels.hpp"
#include "scratch.hpp"

namespace gk::cpu {

// A cell of the other slot and the weight between, which counts position * taps + tap.
struct LocalTap {
  int64_t weight, cell;
};

// The taps of every cell of one slot; those that would see padding are left out.
struct LocalTaps {
  std::vector<LocalTap> taps;
  std::vector<int64_t> begin;  // those of cell i are [begin[i], begin[i + 1])

  int64_t cells() const { return static_cast<int64_t>(begin.size()) - 1; }
  int64_t count(int64_t cell) const { return begin[cell + 1] - begin[cell]; }
  const LocalTap* of(int64_t cell) const { return taps.data() + begin[cell]; }
};

LocalTaps taps_of_y(const ConvGeometry& g);  // the cells of x that each position reads
LocalTaps taps_of_x(const ConvGeometry& g);  // the positions that read each cell of x

// Do the axes from the third on lie in row-major order without gaps?
template <class T>
bool is_dense(const View<T>& v) {
  int64_t expected = 1;
  for (int i = v.rank - 1; i >= 2; expected *= v.shape[i], --i)
    if (v.shape[i] != 1 && v.stride[i] != expected) return false;
  return true;
}

template <class T, class Numbers>
View<T> row_major(const View<Numbers>& shaped, T* data) {
  View<T> v;
  v.data = data, v.rank = shaped.rank;
  int64_t size = 1;
  for (int i = v.rank - 1; i >= 0; size *= v.shape[i], --i) v.shape[i] = shaped.shape[i], v.stride[i] = size;
  return v;
}

// An operand with dense axes: itself or a copy.
template <class T>
class DenseOperand {
 public:
  explicit DenseOperand(const View<const T>& v) : view_(v) {
    if (is_dense(v)) return;
    copy_.emplace(v.size());
    copy<T>(v, row_major<T>(v, copy_->get()));
    view_ = row_major<const T>(v, copy_->get());
  }
  const View<const T>& view() const { return view_; }

 private:
  View<const T> view_;
  std::optional<Scratch<T>> copy_;
};

// A result with dense axes: itself or one that `finish` copies there.
template <class T>
class DenseResult {
 public:
  explicit DenseResult(const View<T>& v) : wanted_(v), view_(v) {
    if (is_dense(v)) return;
    copy_.emplace(v.size());
    view_ = row_major<T>(v, copy_->get());
  }
  const View<T>& view() const { return view_; }
  void finish() const {
    if (copy_) copy<T>(row_major<const T>(view_, view_.data), wanted_);
  }

 private:
  View<T> wanted_, view_;
  std::optional<Scratch<T>> copy_;
};

inline constexpr int64_t kLocalBlocks = 8;  // lane blocks of images of one pass over the weights

// Calls step(first, count) on runs of images.
template <class T, class Step>
void for_local_images(int64_t batch, Step step) {
  const int64_t most = kLocalBlocks * conv_table<T>().lanes;
  for (int64_t n = 0; n < batch; n += most) step(n, batch - n < most ? batch - n : most);
}

// Positions whose weights make a run that is worth a transpose.
template <class T>
int64_t local_run(const ConvTable<T>& table, const ConvGeometry& g) {
  return (2 * table.lanes + g.taps() - 1) / g.taps();
}

// Few images: weights are read where they lie, (position, tap) in the lanes.
template <class T>
bool few_local_images(const ConvGeometry& g);
template <class T>
void local_conv_few(const View<const T>& x, const View<const T>& w, const View<T>& y, const ConvGeometry& g);

}  // namespace gk::cpu
