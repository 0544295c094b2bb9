// y = op(x; p, q): one functor for each operation where arrays are walked in packs, one that chooses at run time for
// the rest. Formulas as in csrc/cpu/isa/pointwise.inl; elementary functions are CUDA's accurate ones, in Compute<T>.
#include "activation.cuh"
#include "kernels.hpp"
#include "map.cuh"

namespace gk::cuda {
namespace {

// In double, for far below zero the value is exp(p*x), whose relative error is that of p*x times |p*x|.
template <class T>
__device__ __forceinline__ T softplus(T x, double p, double q) {
  const double z = p * static_cast<double>(x);
  const double soft = ((z > 0.0 ? z : 0.0) + std::log1p(std::exp(-std::fabs(z)))) / p;
  return z > q ? x : static_cast<T>(soft);
}

template <class T>
__device__ __forceinline__ T sigmoid(T x) {
  const T e = std::exp(-std::fabs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

template <class T>
__device__ __forceinline__ T power(T x, T p) {
  if (p == T(2)) return x * x;
  if (p == T(3)) return x * x * x;
  if (p == T(0.5)) return std::sqrt(x);
  if (p == T(-0.5)) return T(1) / std::sqrt(x);
  if (p == T(-1)) return T(1) / x;
  return std::pow(x, p);
}

template <class T>
__device__ __forceinline__ T unary_value(UnaryOp op, T x, double wide_p, double wide_q) {
  const T p = static_cast<T>(wide_p), q = static_cast<T>(wide_q);
  switch (op) {
    case UnaryOp::negate:
      return -x;
    case UnaryOp::absolute:
      return x < T(0) ? -x : x + T(0);
    case UnaryOp::sign:
      return x > T(0) ? T(1) : (x < T(0) ? T(-1) : x + T(0));
    case UnaryOp::exp:
      return std::exp(x);
    case UnaryOp::expm1:
      return std::expm1(x);
    case UnaryOp::log:
      return std::log(x);
    case UnaryOp::log1p:
      return std::log1p(x);
    case UnaryOp::sqrt:
      return std::sqrt(x);
    case UnaryOp::rsqrt:
      return T(1) / std::sqrt(x);
    case UnaryOp::reciprocal:
      return T(1) / x;
    case UnaryOp::square:
      return x * x;
    case UnaryOp::sin:
      return std::sin(x);
    case UnaryOp::cos:
      return std::cos(x);
    case UnaryOp::tanh:
      return std::tanh(x);
    case UnaryOp::sigmoid:
      return sigmoid(x);
    case UnaryOp::erf:
      return std::erf(x);
    case UnaryOp::floor:
      return std::floor(x);
    case UnaryOp::round:
      return std::rint(x);
    case UnaryOp::affine:
      return x * p + q;
    case UnaryOp::power:
      return power(x, p);
    case UnaryOp::clamp: {
      const T low = x < p ? p : x;
      return low > q ? q : low;
    }
    case UnaryOp::clamp_mask:
      return x >= p && x <= q ? T(1) : T(0);
    case UnaryOp::leaky_relu:
      return leaky_relu(x, p);
    case UnaryOp::elu:
      return x > T(0) ? x : p * std::expm1(x);
    case UnaryOp::softplus:
      return softplus(x, wide_p, wide_q);
    default:
      return x;
  }
}

template <UnaryOp op, class T>
struct Unary {
  double p, q;
  __device__ T operator()(T x) const { return unary_value(op, x, p, q); }
};

template <class T>
struct AnyUnary {
  UnaryOp op;
  double p, q;
  __device__ T operator()(T x) const { return unary_value(op, x, p, q); }
};

}  // namespace

template <class T>
void unary(UnaryOp op, View<const T> x, View<T> y, double p, double q) {
  using C = Compute<T>;
  switch (op) {
#define GK_CASE(name) \
  case UnaryOp::name: \
    return map_or_plain(Unary<UnaryOp::name, C>{p, q}, AnyUnary<C>{op, p, q}, y, x);
    GK_UNARY_OPS(GK_CASE)
#undef GK_CASE
    default:
      GK_CHECK(false, "an unknown operation");
  }
}

template void unary<float>(UnaryOp, View<const float>, View<float>, double, double);
template void unary<double>(UnaryOp, View<const double>, View<double>, double, double);
template void unary<bfloat16>(UnaryOp, View<const bfloat16>, View<bfloat16>, double, double);

}  // namespace gk::cuda
