// Indices and masks: their inner loops, sums of integers, and conversions between all types.
#include "integers.hpp"

#include <algorithm>
#include <functional>

#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

// Signed overflow wraps, as in NumPy.
template <class F>
struct Wrapping {
  int64_t operator()(int64_t a, int64_t b) const {
    return static_cast<int64_t>(F()(static_cast<uint64_t>(a), static_cast<uint64_t>(b)));
  }
};
struct Power {  // b >= 0
  uint64_t operator()(uint64_t a, uint64_t b) const {
    uint64_t y = 1;
    for (; b != 0; b >>= 1, a *= a)
      if (b & 1) y *= a;
    return y;
  }
};
struct Larger {
  int64_t operator()(int64_t a, int64_t b) const { return std::max(a, b); }
};
struct Smaller {
  int64_t operator()(int64_t a, int64_t b) const { return std::min(a, b); }
};

template <class T, class F, Operands kind>
void binary_loop(const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    y[i] = F()(kind == Operands::left_constant ? *a : a[i], kind == Operands::right_constant ? *b : b[i]);
}
template <class T, class F>
void compare_loop(const T* a, const T* b, bool* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = F()(a[i], b[i]);
}
template <class T>
void select_loop(const bool* condition, const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = condition[i] ? a[i] : b[i];
}

template <class T>
struct Building : IntegerTable<T> {
  template <class F>
  void define(BinaryOp op) {
    auto& row = this->binary[static_cast<int>(op)];
    row[static_cast<int>(Operands::both_vary)] = binary_loop<T, F, Operands::both_vary>;
    row[static_cast<int>(Operands::right_constant)] = binary_loop<T, F, Operands::right_constant>;
    row[static_cast<int>(Operands::left_constant)] = binary_loop<T, F, Operands::left_constant>;
  }
  template <class F>
  void define(CompareOp op) {
    this->compare[static_cast<int>(op)] = compare_loop<T, F>;
  }
  Building() : IntegerTable<T>{} {
    define<std::equal_to<>>(CompareOp::equal);
    define<std::not_equal_to<>>(CompareOp::not_equal);
    define<std::less<>>(CompareOp::less);
    define<std::less_equal<>>(CompareOp::less_equal);
    define<std::greater<>>(CompareOp::greater);
    define<std::greater_equal<>>(CompareOp::greater_equal);
    this->select = select_loop<T>;
  }
};

struct Indices : Building<int64_t> {
  Indices() {
    define<Wrapping<std::plus<>>>(BinaryOp::add);
    define<Wrapping<std::minus<>>>(BinaryOp::subtract);
    define<Wrapping<std::multiplies<>>>(BinaryOp::multiply);
    define<Wrapping<Power>>(BinaryOp::power);
    define<Larger>(BinaryOp::maximum);
    define<Smaller>(BinaryOp::minimum);
  }
};

struct Masks : Building<bool> {
  Masks() {
    for (const auto op : {BinaryOp::add, BinaryOp::maximum}) define<std::logical_or<>>(op);
    for (const auto op : {BinaryOp::multiply, BinaryOp::minimum}) define<std::logical_and<>>(op);
  }
};

}  // namespace

template <>
const IntegerTable<int64_t>& integers<int64_t>() {
  static const Indices table;
  return table;
}
template <>
const IntegerTable<bool>& integers<bool>() {
  static const Masks table;
  return table;
}

// Integer addition is associative, also where it wraps: any order gives the same bits.
template <>
void sum<int64_t>(View<const int64_t> x, View<int64_t> y) {
  fill(y, 0.0);
  View<int64_t> spread = y;  // y over x's shape: summed axes stand still
  for (int i = 0; i < x.rank; ++i) {
    if (y.shape[i] != x.shape[i]) spread.stride[i] = 0;
    spread.shape[i] = x.shape[i];
  }
  if (x.size() == 0) return;
  const auto loop = strided_loop(false, x, spread);
  loop.runs(0, loop.size(), [&](int64_t n, const int64_t* at) {
    for (int64_t i = 0; i < n; ++i) {
      int64_t& total = y.data[at[1] + i * loop.inner_stride(1)];
      total = Wrapping<std::plus<>>()(total, x.data[at[0] + i * loop.inner_stride(0)]);
    }
  });
}

template <class S, class T>
void cast(View<const S> x, View<T> y) {
  const auto loop = strided_loop(false, y, x);
  const int64_t to = loop.inner_stride(0), from = loop.inner_stride(1);
  loop.parallel_runs([&](int64_t n, const int64_t* at) {
    const S* input = x.data + at[1];
    T* output = y.data + at[0];
    for (int64_t i = 0; i < n; ++i) output[i * to] = static_cast<T>(input[i * from]);
  });
}

#define GK_CAST_FROM(S)                                         \
  template void cast<S, float>(View<const S>, View<float>);     \
  template void cast<S, double>(View<const S>, View<double>);   \
  template void cast<S, int64_t>(View<const S>, View<int64_t>); \
  template void cast<S, bool>(View<const S>, View<bool>);
GK_CAST_FROM(float)
GK_CAST_FROM(double)
GK_CAST_FROM(int64_t)
GK_CAST_FROM(bool)

}  // namespace gk::cpu
