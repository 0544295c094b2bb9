// Rows picked by index (embedding) and the adjoint: a block for each row of the table looks through all indices, 32 at
// a time, and adds its own rows in their order. No atomics: the same bits in every run.
#include "kernels.hpp"
#include "launch.cuh"
#include "views.cuh"

namespace gk::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
struct Matrix {
  T* data;
  int64_t row, column;  // strides
  __device__ T& at(int64_t r, int64_t c) const { return data[r * row + c * column]; }
};
template <class T>
Matrix<T> matrix(const View<T>& v) {
  return {v.data, v.stride[0], v.stride[1]};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(Matrix<const T> table, const int64_t* index, int64_t step, Matrix<T> rows, int64_t columns) {
  const int64_t m = blockIdx.x, from = index[m * step];
  for (int64_t d = threadIdx.x; d < columns; d += kThreads) rows.at(m, d) = table.at(from, d);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scatter_rows_kernel(Matrix<const T> rows, const int64_t* index, int64_t step, int64_t count, Matrix<T> table,
                        int64_t columns) {
  const int64_t v = blockIdx.x, lane = threadIdx.x % kWarpSize;
  const int64_t first = int64_t(blockIdx.y) * kThreads, d = first + threadIdx.x;
  Compute<T> total = 0;
  for (int64_t m = 0; m < count; m += kWarpSize) {
    const bool mine = m + lane < count && index[(m + lane) * step] == v;
    for (uint32_t left = __ballot_sync(kFullMask, mine); left != 0; left &= left - 1)
      if (d < columns) total += rows.at(m + __ffs(static_cast<int>(left)) - 1, d);
  }
  if (d < columns) table.at(v, d) = static_cast<T>(total);
}

}  // namespace

template <class T>
void gather_rows(View<const T> table, View<const int64_t> index, View<T> rows) {
  if (rows.size() == 0) return;
  launch({dim3(static_cast<unsigned>(rows.shape[0])), kThreads}, gather_rows_kernel<T>, matrix(table), index.data,
         index.stride[0], matrix(rows), rows.shape[1]);
}

template <class T>
void scatter_rows(View<const T> rows, View<const int64_t> index, View<T> table) {
  if (table.size() == 0) return;
  const dim3 grid(static_cast<unsigned>(table.shape[0]), blocks_for(table.shape[1], kThreads));
  launch({grid, kThreads}, scatter_rows_kernel<T>, matrix(rows), index.data, index.stride[0], rows.shape[0],
         matrix(table), table.shape[1]);
}

#define GK_INSTANTIATE(T)                                                    \
  template void gather_rows<T>(View<const T>, View<const int64_t>, View<T>); \
  template void scatter_rows<T>(View<const T>, View<const int64_t>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
template void gather_rows<int64_t>(View<const int64_t>, View<const int64_t>, View<int64_t>);
template void gather_rows<bool>(View<const bool>, View<const int64_t>, View<bool>);

}  // namespace gk::cuda
