// Rows picked by index (embedding) and the adjoint. The adjoint cuts the table, not the indices, into tasks: each adds
// its own rows in index order, so duplicates sum in the same order at any thread count.
#include <algorithm>

#include "kernels.hpp"
#include "parallel.hpp"
#include "strided.hpp"

namespace gk::cpu {

template <class T>
void gather_rows(View<const T> table, View<const int64_t> index, View<T> rows) {
  const int64_t M = rows.shape[0], D = rows.shape[1];
  if (D == 0) return;
  const int64_t from = table.stride[1], to = rows.stride[1];
  parallel_chunks(M, std::max<int64_t>(1, kGrain / D), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const T* source = table.data + index.data[m * index.stride[0]] * table.stride[0];
      T* target = rows.data + m * rows.stride[0];
      if (from == 1 && to == 1) {
        std::copy(source, source + D, target);
      } else {
        for (int64_t d = 0; d < D; ++d) target[d * to] = source[d * from];
      }
    }
  });
}

template <class T>
void scatter_rows(View<const T> rows, View<const int64_t> index, View<T> table) {
  fill(table, 0.0);
  const int64_t M = rows.shape[0], D = rows.shape[1], V = table.shape[0];
  if (M == 0 || D == 0) return;
  const int64_t parts = std::min(V, std::min<int64_t>(16, M * D / kGrain + 1)), size = (V + parts - 1) / parts;
  const int64_t from = rows.stride[1], to = table.stride[1];
  parallel_chunks(V, size, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; ++m) {
      const int64_t v = index.data[m * index.stride[0]];
      if (v < begin || v >= end) continue;
      const T* source = rows.data + m * rows.stride[0];
      T* target = table.data + v * table.stride[0];
      for (int64_t d = 0; d < D; ++d) target[d * to] += source[d * from];
    }
  });
}

#define GK_INSTANTIATE(T)                                                    \
  template void gather_rows<T>(View<const T>, View<const int64_t>, View<T>); \
  template void scatter_rows<T>(View<const T>, View<const int64_t>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
template void gather_rows<int64_t>(View<const int64_t>, View<const int64_t>, View<int64_t>);
template void gather_rows<bool>(View<const bool>, View<const int64_t>, View<bool>);

}  // namespace gk::cpu
