// c = a b with a short inner extent, as the gradient of a dense layer's weights: c is most of what moves, so sums go
// straight into it, a tile of whole rows after the other, while all of b stays packed in the second cache.
#include "matmul_outer.hpp"

#include <algorithm>

#include "conv_table.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kInner = 128;             // of the inner extent at most
constexpr int64_t kBytes = 4 << 20;         // of c at least
constexpr int64_t kRightBytes = 512 << 10;  // of b at most
constexpr int64_t kTasks = 4;               // at least
constexpr int64_t kBlocks = 16;             // tiles of rows in a task

}  // namespace

template <class T>
bool is_outer(const View<const T>& a, const View<const T>& b, const View<T>& c) {
  const int64_t K = a.shape[2], N = c.shape[2], bytes = static_cast<int64_t>(sizeof(T));
  const int64_t rows = kTasks * kBlocks * conv_table<T>().wide_outputs;
  return K > 0 && K <= kInner && c.shape[1] >= rows && N % conv_table<T>().lanes == 0 && c.stride[2] == 1 &&
         b.stride[2] == 1 && c.shape[1] * N * bytes >= kBytes && K * N * bytes <= kRightBytes;
}

template <class T>
void matmul_outer(const View<const T>& a, const View<const T>& b, const View<T>& c) {
  const ConvTable<T>& table = conv_table<T>();
  const int64_t M = c.shape[1], N = c.shape[2], K = a.shape[2], vectors = N / table.lanes;
  const int outputs = table.wide_outputs;
  const int64_t panels = ceil_div(vectors, table.max_positions[outputs]);
  const auto column = [&](int64_t panel) { return vectors * panel / panels * table.lanes; };
  const int64_t rows = kBlocks * outputs, tasks = ceil_div(M, rows);
  const TapOffset only{0, 0};
  for (int64_t batch = 0; batch < c.shape[0]; ++batch) {
    const T *left = a.data + batch * a.stride[0], *right = b.data + batch * b.stride[0];
    T* result = c.data + batch * c.stride[0];
    Scratch<T> packed(K * N);  // (panel, inner, column)
    parallel_for(panels, [&](int64_t panel) {
      const int64_t first = column(panel), width = column(panel + 1) - first;
      for (int64_t k = 0; k < K; ++k)
        std::copy_n(right + k * b.stride[1] + first, width, packed.get() + first * K + k * width);
    });
    parallel_for(tasks, [&](int64_t task) {
      const int64_t first_row = task * rows, last_row = std::min(M, first_row + rows);
      Scratch<T> blocks(rows * K), sums(outputs * N);  // (tile of rows, inner, row)
      for (int64_t k = 0; k < K; ++k)
        for (int64_t m = first_row; m < last_row; m += outputs) {
          T* to = blocks.get() + (m - first_row) * K + k * outputs;
          const int64_t valid = std::min<int64_t>(outputs, last_row - m);
          const T* from = left + m * a.stride[1] + k * a.stride[2];
          for (int64_t o = 0; o < valid; ++o) to[o] = from[o * a.stride[1]];
          std::fill(to + valid, to + outputs, T(0));
        }
      for (int64_t m = first_row; m < last_row; m += outputs) {
        const bool whole = last_row - m >= outputs;
        T* to = whole ? result + m * c.stride[1] : sums.get();
        const int64_t row = whole ? c.stride[1] : N;
        for (int64_t panel = 0; panel < panels; ++panel) {
          const int64_t first = column(panel), width = column(panel + 1) - first;
          table.tile[outputs][width / table.lanes](packed.get() + first * K, width, blocks.get() + (m - first_row) * K,
                                                   outputs, K, &only, 1, to + first, row, table.lanes, false);
        }
        if (!whole)
          for (int64_t r = m; r < last_row; ++r) std::copy_n(sums.get() + (r - m) * N, N, result + r * c.stride[1]);
      }
    });
  }
}

#define GK_INSTANTIATE(T)                                                             \
  template bool is_outer(const View<const T>&, const View<const T>&, const View<T>&); \
  template void matmul_outer(const View<const T>&, const View<const T>&, const View<T>&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
