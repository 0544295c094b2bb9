// The host's side of an epilogue, and its gradient in one pass: what is read of y and of the cotangent gives both gx
// and the sums of the bias.
#include "../core/error.hpp"
#include "epilogue.cuh"
#include "epilogue.hpp"
#include "kernels.hpp"
#include "map.cuh"
#include "reduce.cuh"

namespace gk::cuda {
namespace {

// Stores the gradient and sums it, before it is rounded to T, in double as kernel `sum` does.
template <class T>
struct StoredGradient {
  using State = double;
  using Running = double;
  using C = Compute<T>;
  EpilogueGradient<C> gradient;
  const T *y, *ct;
  T* gx;
  C* gbias;

  __device__ Running start(int64_t) const { return 0.0; }
  __device__ void add(Running& s, const int64_t (&offset)[3]) const {
    const C value = gradient(static_cast<C>(y[offset[0]]), static_cast<C>(ct[offset[1]]));
    gx[offset[2]] = static_cast<T>(value);
    s += static_cast<double>(value);
  }
  __device__ State state(const Running& s) const { return s; }
  __device__ void join(State& a, const State& b) const { a += b; }
  __device__ void finish(const State& s, int64_t output) const { gbias[output] = static_cast<C>(s); }
};

}  // namespace

template <class T>
Epilogue<T> epilogue_of(View<T> y, View<const Compute<T>> bias, double slope, double p, uint64_t seed,
                        uint64_t offset) {
  GK_CHECK(y.is_contiguous() && reinterpret_cast<std::uintptr_t>(y.data) % 16 == 0,
           "an epilogue of a part of an array");
  Epilogue<T> e;
  e.y = y.data;
  if (bias.size() != 0) e.bias = bias.data, e.bias_step = bias.stride[0];
  e.slope = static_cast<Compute<T>>(slope);
  e.drops = p > 0.0;
  e.threshold = dropout_threshold(p), e.scale = dropout_scale<Compute<T>>(p);
  e.seed = seed, e.counter = counter(offset);
  return e;
}

template <class T>
void epilogue_backward(View<const T> y, View<const T> ct, View<T> gx, View<Compute<T>> gbias, double slope, double p) {
  const EpilogueGradient<Compute<T>> gradient(slope, p);
  if (gbias.size() == 0) return map(gradient, gx, y, ct);
  if (y.size() == 0) return fill(gbias, 0.0);
  HostAxes<4> kept;
  HostAxes<3> summed;
  kept.push(y.shape[1], y.stride[1], ct.stride[1], gx.stride[1], gbias.stride[0]);
  for (int i = 0; i < y.rank; ++i)
    if (i != 1) summed.push(y.shape[i], y.stride[i], ct.stride[i], gx.stride[i]);
  kept.merge();
  summed.sort();
  summed.merge();
  reduce<3>(StoredGradient<T>{gradient, y.data, ct.data, gx.data, gbias.data}, kept, summed);
}

#define GK_INSTANTIATE(T)                                                                                   \
  template Epilogue<T> epilogue_of<T>(View<T>, View<const Compute<T>>, double, double, uint64_t, uint64_t); \
  template void epilogue_backward<T>(View<const T>, View<const T>, View<T>, View<Compute<T>>, double, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
