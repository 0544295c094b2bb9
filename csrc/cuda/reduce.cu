// Sums over any axes (reduce.cuh; in double, rounded once) and softmax over the last one: a block for each row, the row
// read three times from the cache that the first time fills.
#include <type_traits>

#include "kernels.hpp"
#include "reduce.cuh"

namespace gk::cuda {
namespace {

template <class T>
struct Sum {
  using State = std::conditional_t<std::is_same_v<T, int64_t>, uint64_t, double>;  // integers wrap
  using Running = State;
  const T* x;
  T* y;

  __device__ Running start(int64_t) const { return State(0); }
  __device__ void add(Running& s, const int64_t (&offset)[1]) const { s += static_cast<State>(x[offset[0]]); }
  __device__ State state(const Running& s) const { return s; }
  __device__ void join(State& a, const State& b) const { a += b; }
  __device__ void finish(const State& s, int64_t output) const { y[output] = static_cast<T>(s); }
};

constexpr int kRowThreads = 128;

// The same value in every thread of the block; join is associative up to rounding, the order is fixed.
template <class S, class J>
__device__ __forceinline__ S block_joined(S value, const J& join) {
  GK_SHARED(S[kRowThreads / kWarpSize], of_warp);
  GK_UNROLL
  for (int step = kWarpSize / 2; step > 0; step /= 2) value = join(value, __shfl_xor_sync(kFullMask, value, step));
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  S all = of_warp[0];
  GK_UNROLL
  for (int i = 1; i < kRowThreads / kWarpSize; ++i) all = join(all, of_warp[i]);
  __syncthreads();  // before the next call writes there
  return all;
}

template <bool Log, class T>
__global__ void __launch_bounds__(kRowThreads)
    softmax_kernel(const T* x, T* y, int64_t columns, int64_t x_row, int64_t x_step, int64_t y_row, int64_t y_step) {
  using C = Compute<T>;
  const T* input = x + static_cast<int64_t>(blockIdx.x) * x_row;
  T* output = y + static_cast<int64_t>(blockIdx.x) * y_row;
  C largest = input[0];
  for (int64_t c = threadIdx.x; c < columns; c += kRowThreads) {
    const C v = input[c * x_step];
    largest = v > largest || v != v ? v : largest;
  }
  largest = block_joined(largest, [](C a, C b) { return b > a || b != b ? b : a; });
  double total = 0;
  for (int64_t c = threadIdx.x; c < columns; c += kRowThreads)
    total += static_cast<double>(std::exp(input[c * x_step] - largest));
  total = block_joined(total, [](double a, double b) { return a + b; });
  if (Log) {
    const double log_total = std::log(total);
    for (int64_t c = threadIdx.x; c < columns; c += kRowThreads)
      output[c * y_step] = static_cast<T>(static_cast<double>(input[c * x_step] - largest) - log_total);
  } else {
    const C divisor = static_cast<C>(total);
    for (int64_t c = threadIdx.x; c < columns; c += kRowThreads)
      output[c * y_step] = static_cast<T>(std::exp(input[c * x_step] - largest) / divisor);
  }
}

template <bool Log, class T>
void softmax_rows(const View<const T>& x, const View<T>& y) {
  if (x.size() == 0) return;
  launch({dim3(static_cast<unsigned>(x.shape[0])), kRowThreads}, softmax_kernel<Log, T>, x.data, y.data, x.shape[1],
         x.stride[0], x.stride[1], y.stride[0], y.stride[1]);
}

}  // namespace

template <class T>
void sum(View<const T> x, View<T> y) {
  if (x.size() == 0) return fill(y, 0.0);
  HostAxes<2> kept;
  HostAxes<1> summed;
  for (int i = 0; i < x.rank; ++i) {
    if (y.shape[i] == x.shape[i]) {
      kept.push(x.shape[i], x.stride[i], y.stride[i]);
    } else {
      summed.push(x.shape[i], x.stride[i]);
    }
  }
  kept.sort();
  kept.merge();
  summed.sort();
  summed.merge();
  reduce<1>(Sum<T>{x.data, y.data}, kept, summed);
}

template <class T>
void softmax(View<const T> x, View<T> y) {
  softmax_rows<false>(x, y);
}

template <class T>
void log_softmax(View<const T> x, View<T> y) {
  softmax_rows<true>(x, y);
}

#define GK_INSTANTIATE(T)                           \
  template void sum<T>(View<const T>, View<T>);     \
  template void softmax<T>(View<const T>, View<T>); \
  template void log_softmax<T>(View<const T>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
template void sum<int64_t>(View<const int64_t>, View<int64_t>);

}  // namespace gk::cuda
