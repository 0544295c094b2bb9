// Pointwise kernels: a functor each, walked by map.cuh. Formulas as in csrc/cpu/isa/pointwise.inl.
#include <type_traits>

#include "activation.cuh"
#include "kernels.hpp"
#include "map.cuh"

namespace gk::cuda {
namespace {

template <class T>
struct Gate {
  T slope;
  __device__ T operator()(T reference, T x) const { return leaky_relu_gate(reference, x, slope); }
};

template <class T>
struct Select {
  __device__ T operator()(bool condition, T a, T b) const { return condition ? a : b; }
};

template <class T>
struct Copy {
  __device__ T operator()(T x) const { return x; }
};

// floats are cut towards zero, bool is x != 0
template <class S, class T>
struct Cast {
  __device__ T operator()(S x) const {
    if constexpr (std::is_same_v<T, bool>) {
      return x != S(0);
    } else {
      return static_cast<T>(x);
    }
  }
};

template <class T>
struct Fill {
  T value;
  __device__ T operator()() const { return value; }
};

}  // namespace

template <class T>
void gate(View<const T> reference, View<const T> x, View<T> y, double slope) {
  map(Gate<Compute<T>>{static_cast<Compute<T>>(slope)}, y, reference, x);
}

template <class T>
void select(View<const bool> condition, View<const T> a, View<const T> b, View<T> y) {
  map(Select<T>{}, y, condition, a, b);
}

template <class T>
void copy(View<const T> x, View<T> y) {
  map(Copy<T>{}, y, x);
}

template <class T>
void fill(View<T> y, double value) {
  map(Fill<T>{static_cast<T>(value)}, y);  // bool: value != 0
}

template <class S, class T>
void cast(View<const S> x, View<T> y) {
  map(Cast<S, T>{}, y, x);
}

#define GK_INSTANTIATE(T)                                                           \
  template void select<T>(View<const bool>, View<const T>, View<const T>, View<T>); \
  template void copy<T>(View<const T>, View<T>);                                    \
  template void fill<T>(View<T>, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
GK_INSTANTIATE(int64_t)
GK_INSTANTIATE(bool)
#define GK_INSTANTIATE_CAST(S)                                    \
  template void cast<S, float>(View<const S>, View<float>);       \
  template void cast<S, double>(View<const S>, View<double>);     \
  template void cast<S, bfloat16>(View<const S>, View<bfloat16>); \
  template void cast<S, int64_t>(View<const S>, View<int64_t>);   \
  template void cast<S, bool>(View<const S>, View<bool>);
GK_INSTANTIATE_CAST(float)
GK_INSTANTIATE_CAST(double)
GK_INSTANTIATE_CAST(bfloat16)
GK_INSTANTIATE_CAST(int64_t)
GK_INSTANTIATE_CAST(bool)
template void gate<float>(View<const float>, View<const float>, View<float>, double);
template void gate<double>(View<const double>, View<const double>, View<double>, double);
template void gate<bfloat16>(View<const bfloat16>, View<const bfloat16>, View<bfloat16>, double);

}  // namespace gk::cuda
