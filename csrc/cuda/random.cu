// Random numbers by Philox (philox.cuh): a thread draws one block of four words for four elements (two doubles). Bits
// of uniform and dropout as on the CPU; dropout stores no mask. An element of bfloat16 is that of float, rounded.
#include <type_traits>

#include "counters.cuh"
#include "kernels.hpp"
#include "launch.cuh"
#include "philox.cuh"
#include "views.cuh"

namespace gk::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float uniform24(uint32_t word) { return static_cast<float>(word >> 8) * kUniform24; }
__device__ __forceinline__ double uniform53(uint32_t low, uint32_t high) {
  return static_cast<double>((static_cast<uint64_t>(high) << 32 | low) >> 11) * kUniform53;
}

__device__ __forceinline__ void uniforms(const Words& w, float (&u)[4]) {
  GK_UNROLL
  for (int j = 0; j < 4; ++j) u[j] = uniform24(w.word[j]);
}
__device__ __forceinline__ void uniforms(const Words& w, double (&u)[2]) {
  GK_UNROLL
  for (int j = 0; j < 2; ++j) u[j] = uniform53(w.word[2 * j], w.word[2 * j + 1]);
}

// Pairs of uniforms to pairs of normals (Box and Muller, 1958); 1 - u is never zero.
__device__ __forceinline__ void box_muller(double u, double v, double* z) {
  const double r = std::sqrt(-2.0 * std::log(1.0 - u));
  double s, c;
  sincospi(2.0 * v, &s, &c);
  z[0] = r * c;
  z[1] = r * s;
}
__device__ __forceinline__ void box_muller(float u, float v, float* z) {
  const float r = std::sqrt(-2.0f * std::log(1.0f - u));
  float s, c;
  sincospif(2.0f * v, &s, &c);
  z[0] = r * c;
  z[1] = r * s;
}

template <class T>
struct Uniform {
  using Value = T;
  static constexpr int kPerBlock = sizeof(T) == 4 ? 4 : 2;
  __device__ void operator()(const Words& w, T (&value)[kPerBlock]) const { uniforms(w, value); }
  template <class S>
  static __device__ S stored(T value) {
    const S rounded = static_cast<S>(value);
    if constexpr (std::is_same_v<S, T>) {
      return rounded;
    } else {  // below 1, as what it was
      return rounded < T(1) ? rounded : S(T(1) - T(1.0 / 256));
    }
  }
};
template <class T>
struct Normal {
  using Value = T;
  static constexpr int kPerBlock = sizeof(T) == 4 ? 4 : 2;
  __device__ void operator()(const Words& w, T (&value)[kPerBlock]) const {
    T u[kPerBlock];
    uniforms(w, u);
    GK_UNROLL
    for (int j = 0; j < kPerBlock; j += 2) box_muller(u[j], u[j + 1], value + j);
  }
  template <class S>
  static __device__ S stored(T value) {
    return static_cast<S>(value);
  }
};

template <class T, class Draw>
__global__ void __launch_bounds__(kThreads)
    draw_kernel(Draw draw, Axes<1> axes, bool packed, uint32_t n, uint64_t seed, Counter counter, T* y) {
  constexpr int W = Draw::kPerBlock;
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x, first = i * W;
  if (first >= n) return;
  typename Draw::Value value[W];
  draw(philox(seed, counter.value() + i), value);
  Pack<T, W> pack;
  GK_UNROLL
  for (int j = 0; j < W; ++j) pack.value[j] = Draw::template stored<T>(value[j]);
  if (packed && first + W <= n) return store_pack<W>(y + first, pack);
  GK_UNROLL
  for (int j = 0; j < W; ++j) {
    if (first + j >= n) return;
    int64_t at[1];
    axes.offsets(first + j, at);
    y[at[0]] = pack.value[j];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(Axes<2> axes, bool packed, uint32_t n, uint32_t threshold, Compute<T> scale, uint64_t seed,
                   Counter counter, const T* x, T* y) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x, first = i * 4;
  if (first >= n) return;
  const Words w = philox(seed, counter.value() + i);
  const auto kept = [&](int j, Compute<T> value) {
    return static_cast<T>(is_kept(w.word[j], threshold) ? value * scale : Compute<T>(0));
  };
  if (packed && first + 4 <= n) {
    constexpr int W = kPackSize<T, 4>;
    GK_UNROLL
    for (int part = 0; part < 4; part += W) {
      Pack<T, W> pack = load_pack<W>(x + first + part);
      GK_UNROLL
      for (int j = 0; j < W; ++j) pack.value[j] = kept(part + j, pack.value[j]);
      store_pack<W>(y + first + part, pack);
    }
    return;
  }
  GK_UNROLL
  for (int j = 0; j < 4; ++j) {
    if (first + j >= n) return;
    int64_t at[2];
    axes.offsets(first + j, at);
    y[at[0]] = kept(j, x[at[1]]);
  }
}

template <class T>
bool is_aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

int64_t checked_size(int64_t n) {
  GK_CHECK(n < kMaxIndex, "random numbers for 2^31 elements or more at once");
  return n;
}

template <class Draw, class T>
void draw(const Draw& f, View<T> y, uint64_t seed, uint64_t offset) {
  const HostAxes<1> axes = walk(true, y);
  const int64_t n = checked_size(axes.size());
  const bool packed = axes.rank == 1 && axes.stride[0][0] == 1 && is_aligned(y.data);
  launch({blocks_for(n, int64_t(kThreads) * Draw::kPerBlock), kThreads}, draw_kernel<T, Draw>, f, axes.device(), packed,
         static_cast<uint32_t>(n), seed, counter(offset), y.data);
}

}  // namespace

template <class T>
void random_uniform(View<T> y, uint64_t seed, uint64_t offset) {
  draw(Uniform<Compute<T>>(), y, seed, offset);
}

template <class T>
void random_normal(View<T> y, uint64_t seed, uint64_t offset) {
  draw(Normal<Compute<T>>(), y, seed, offset);
}

template <class T>
void dropout(View<const T> x, View<T> y, double p, uint64_t seed, uint64_t offset) {
  const HostAxes<2> axes = walk(true, y, x);
  const int64_t n = checked_size(axes.size());
  const bool packed =
      axes.rank == 1 && axes.stride[0][0] == 1 && axes.stride[1][0] == 1 && is_aligned(y.data) && is_aligned(x.data);
  launch({blocks_for(n, int64_t(kThreads) * 4), kThreads}, dropout_kernel<T>, axes.device(), packed,
         static_cast<uint32_t>(n), dropout_threshold(p), dropout_scale<Compute<T>>(p), seed, counter(offset), x.data,
         y.data);
}

#define GK_INSTANTIATE(T)                                       \
  template void random_uniform<T>(View<T>, uint64_t, uint64_t); \
  template void random_normal<T>(View<T>, uint64_t, uint64_t);  \
  template void dropout<T>(View<const T>, View<T>, double, uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
