// Every pointwise kernel is one: y[i] = f(x0[i], x1[i], ...) for arrays of one shape, any strides. Such kernels are
// bound by memory, so a thread takes a pack of 16 bytes where all arrays allow it: each is contiguous along the
// innermost axis, or constant along it (a broadcast operand, read once). Otherwise packs are single elements;
// neighbouring threads still read neighbouring cells. No loop: as many threads as packs, enough loads in flight at full
// occupancy. A functor computes in Compute of the arrays' type.
#pragma once

#include "launch.cuh"
#include "views.cuh"

namespace gk::cuda {

constexpr int kMapThreads = 256;

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load_operand(const T* x, bool constant) {
  if (!constant) return load_pack<W>(x);
  Pack<T, W> pack;
  const T value = *x;
  GK_UNROLL
  for (int j = 0; j < W; ++j) pack.value[j] = value;
  return pack;
}

// Pack number i of y from those of the operands; `valid` elements of it exist (all W, except at the end of a flat
// array).
template <int W, class F, class Y, class... X>
__device__ __forceinline__ void map_pack(const F& f, int valid, Y* y, const Pack<X, W>&... packs) {
  Pack<Y, W> result;
  GK_UNROLL
  for (int j = 0; j < W; ++j)
    if (W == 1 || j < valid) result.value[j] = static_cast<Y>(f(packs.value[j]...));
  store_pack<W>(y, result);
}

template <int W, size_t... I, class F, class Y, class... X>
__device__ __forceinline__ void map_at(std::index_sequence<I...>, const F& f, const Axes<1 + sizeof...(X)>& axes,
                                       uint32_t constant, uint32_t i, int valid, Y* y, const X*... x) {
  int64_t at[1 + sizeof...(X)];
  axes.offsets(i, at);
  if (valid == W) return map_pack<W>(f, W, y + at[0], load_operand<W>(x + at[1 + I], constant >> I & 1)...);
  for (int j = 0; j < valid; ++j) y[at[0] + j] = static_cast<Y>(f(x[at[1 + I] + (constant >> I & 1 ? 0 : j)]...));
}

// Blocks that one multiprocessor should hold. 0: the compiler decides, which spills a number for a fifth block where
// there are many operands; four leave every thread 64 registers.
template <int K>
constexpr int kBlocksPerProcessor = K < 8 ? 0 : 4;

// Operand k of `constant` (bit k) does not move along the innermost axis. `last_valid`: elements of the last pack.
template <int W, int K, class F, class Y, class... X>
__global__ void __launch_bounds__(kMapThreads, kBlocksPerProcessor<K>)
    map_kernel(F f, Axes<K> axes, uint32_t packs, int last_valid, uint32_t constant, Y* y, const X*... x) {
  const uint32_t i = blockIdx.x * kMapThreads + threadIdx.x;
  if (i >= packs) return;
  map_at<W>(std::index_sequence_for<X...>(), f, axes, constant, i, i + 1 == packs ? last_valid : W, y, x...);
}

// Which operands are constant along the innermost axis (bits), or -1 if the arrays cannot be taken in packs of W.
template <int W, int K>
int64_t packable(const HostAxes<K>& axes, const int64_t (&misalignment)[K]) {
  const int inner = axes.rank - 1;
  if (inner > 0 && axes.shape[inner] % W != 0) return -1;
  int64_t constant = 0;
  for (int k = 0; k < K; ++k) {
    const int64_t step = axes.stride[k][inner];
    if (step == 0 && k > 0) {
      constant |= int64_t(1) << (k - 1);
      continue;
    }
    if (step != 1 || misalignment[k] != 0) return -1;
    for (int i = 0; i < inner; ++i)
      if (axes.stride[k][i] % W != 0) return -1;
  }
  return constant;
}

template <int W, class F, class Y, class... X>
void launch_map(const F& f, HostAxes<1 + sizeof...(X)> axes, uint32_t constant, Y* y, const X*... x) {
  const int64_t n = axes.size(), packs = (n + W - 1) / W;
  const int inner = axes.rank - 1;
  axes.shape[inner] = (axes.shape[inner] + W - 1) / W;
  for (auto& s : axes.stride) s[inner] *= W;
  constexpr int K = 1 + sizeof...(X);
  void (*const kernel)(F, Axes<K>, uint32_t, int, uint32_t, Y*, const X*...) = map_kernel<W, K, F, Y, X...>;
  launch({blocks_for(packs, kMapThreads), kMapThreads}, kernel, f, axes.device(), static_cast<uint32_t>(packs),
         static_cast<int>(n - (packs - 1) * W), constant, y, x...);
}

template <class F, class P, class Y, class... X>
void map_part(const F& f, const P& plain, const HostAxes<1 + sizeof...(X)>& axes, Y* y, const X*... x) {
  constexpr int W = 16 / static_cast<int>(std::max({sizeof(Y), sizeof(X)...}));
  const auto misaligned = [](const auto* p) {
    return static_cast<int64_t>(reinterpret_cast<std::uintptr_t>(p) % (sizeof(*p) * W));
  };
  const int64_t constant = packable<W>(axes, {misaligned(y), misaligned(x)...});
  if (W > 1 && constant >= 0) {
    launch_map<W>(f, axes, static_cast<uint32_t>(constant), y, x...);
  } else {
    launch_map<1>(plain, axes, 0u, y, x...);
  }
}

template <size_t... I, class F, class P, class Y, class... X>
void map_views(std::index_sequence<I...>, const F& f, const P& plain, View<Y> y, View<const X>... x) {
  walk(false, y, x...).in_parts([&](const HostAxes<1 + sizeof...(X)>& axes, const int64_t* first) {
    map_part(f, plain, axes, y.data + first[0], x.data + first[1 + I]...);
  });
}

// In packs by f, otherwise element by element by `plain`, which computes the same.
template <class F, class P, class Y, class... X>
void map_or_plain(const F& f, const P& plain, View<Y> y, View<const X>... x) {
  map_views(std::index_sequence_for<X...>(), f, plain, y, x...);
}

template <class F, class Y, class... X>
void map(const F& f, View<Y> y, View<const X>... x) {
  map_or_plain(f, f, y, x...);
}

}  // namespace gk::cuda
