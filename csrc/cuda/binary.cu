// y = op(a, b) and y = a sign b, for numbers, indices (wrapping) and masks. As in unary.cu: a functor for each
// operation of floats in packs, one that chooses at run time for the rest.
#include <type_traits>

#include "kernels.hpp"
#include "map.cuh"

namespace gk::cuda {
namespace {

template <class T>
__device__ __forceinline__ T binary_value(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::add:
      return a + b;
    case BinaryOp::subtract:
      return a - b;
    case BinaryOp::multiply:
      return a * b;
    case BinaryOp::divide:
      return a / b;
    case BinaryOp::maximum:
      return a > b || a != a ? a : b;
    case BinaryOp::minimum:
      return a < b || a != a ? a : b;
    case BinaryOp::power:
      return std::pow(a, b);
    case BinaryOp::atan2:
      return std::atan2(a, b);
    default:
      return a;
  }
}

__device__ __forceinline__ int64_t binary_value(BinaryOp op, int64_t a, int64_t b) {
  const auto u = static_cast<uint64_t>(a), v = static_cast<uint64_t>(b);
  switch (op) {
    case BinaryOp::add:
      return static_cast<int64_t>(u + v);
    case BinaryOp::subtract:
      return static_cast<int64_t>(u - v);
    case BinaryOp::multiply:
      return static_cast<int64_t>(u * v);
    case BinaryOp::maximum:
      return a > b ? a : b;
    case BinaryOp::minimum:
      return a < b ? a : b;
    default: {  // power, by squaring
      uint64_t result = 1, base = u;
      for (uint64_t left = v; left > 0; left >>= 1, base *= base)
        if (left & 1) result *= base;
      return static_cast<int64_t>(result);
    }
  }
}

__device__ __forceinline__ bool binary_value(BinaryOp op, bool a, bool b) {
  return op == BinaryOp::multiply || op == BinaryOp::minimum ? a && b : a || b;
}

template <class T>
__device__ __forceinline__ bool compare_value(CompareOp op, T a, T b) {
  switch (op) {
    case CompareOp::equal:
      return a == b;
    case CompareOp::not_equal:
      return a != b;
    case CompareOp::less:
      return a < b;
    case CompareOp::less_equal:
      return a <= b;
    case CompareOp::greater:
      return a > b;
    default:
      return a >= b;
  }
}

template <BinaryOp op, class T>
struct Binary {
  __device__ T operator()(T a, T b) const { return binary_value(op, a, b); }
};
template <class T>
struct AnyBinary {
  BinaryOp op;
  __device__ T operator()(T a, T b) const { return binary_value(op, a, b); }
};
template <class T>
struct AnyCompare {
  CompareOp op;
  __device__ bool operator()(T a, T b) const { return compare_value(op, a, b); }
};

}  // namespace

template <class T>
void binary(BinaryOp op, View<const T> a, View<const T> b, View<T> y) {
  using C = Compute<T>;
  if constexpr (std::is_floating_point_v<C>) {
    switch (op) {
#define GK_CASE(name)  \
  case BinaryOp::name: \
    return map_or_plain(Binary<BinaryOp::name, C>{}, AnyBinary<C>{op}, y, a, b);
      GK_BINARY_OPS(GK_CASE)
#undef GK_CASE
      default:
        GK_CHECK(false, "an unknown operation");
    }
  } else {
    map(AnyBinary<T>{op}, y, a, b);
  }
}

template <class T>
void compare(CompareOp op, View<const T> a, View<const T> b, View<bool> y) {
  map(AnyCompare<Compute<T>>{op}, y, a, b);
}

#define GK_INSTANTIATE(T)                                                   \
  template void binary<T>(BinaryOp, View<const T>, View<const T>, View<T>); \
  template void compare<T>(CompareOp, View<const T>, View<const T>, View<bool>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
GK_INSTANTIATE(int64_t)
GK_INSTANTIATE(bool)

}  // namespace gk::cuda
