// Pointwise kernels over strided views: every run is handed to the contiguous inner loops of isa/pointwise.inl,
// through a small buffer where it is not contiguous.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

// Calls body(count, offsets, output) for pieces of every run; `output` is y itself or a buffer that is written back.
// Pieces are whole runs if all operands from `first` on are contiguous, else kStage elements at most.
template <class T, int K, class F>
void pieces(const StridedLoop<K>& loop, T* y, F&& body) {
  bool contiguous = true;
  for (int k = 0; k < K; ++k) contiguous = contiguous && loop.inner_stride(k) == 1;
  loop.parallel_runs([&](int64_t n, const int64_t* start) {
    if (contiguous) return body(n, start, y + start[0]);
    T buffer[kStage];
    int64_t at[K];
    for (int k = 0; k < K; ++k) at[k] = start[k];
    for (int64_t i = 0; i < n; i += kStage) {
      const int64_t count = std::min(kStage, n - i);
      const int64_t stride = loop.inner_stride(0);
      T* output = stride == 1 ? y + at[0] : buffer;
      body(count, at, output);
      if (stride != 1) unstage(buffer, y + at[0], stride, count);
      for (int k = 0; k < K; ++k) at[k] += count * loop.inner_stride(k);
    }
  });
}

// x^p for the exponents that have a loop of their own
UnaryOp without_pow(UnaryOp op, double p) {
  if (op != UnaryOp::power) return op;
  if (p == 2.0) return UnaryOp::square;
  if (p == 0.5) return UnaryOp::sqrt;
  if (p == -0.5) return UnaryOp::rsqrt;
  if (p == -1.0) return UnaryOp::reciprocal;
  return op;
}

}  // namespace

template <class T>
void unary(UnaryOp op, View<const T> x, View<T> y, double p, double q) {
  const auto f = elements<T>().unary[static_cast<int>(without_pow(op, p))];
  const auto loop = strided_loop(false, y, x);
  pieces(loop, y.data, [&](int64_t n, const int64_t* at, T* output) {
    T buffer[kStage];
    f(staged(x.data + at[1], loop.inner_stride(1), n, buffer), output, n, p, q);
  });
}

template <class T>
void binary(BinaryOp op, View<const T> a, View<const T> b, View<T> y) {
  const auto* f = elements<T>().binary[static_cast<int>(op)];
  const auto loop = strided_loop(false, y, a, b);
  const int64_t stride[3] = {loop.inner_stride(0), loop.inner_stride(1), loop.inner_stride(2)};
  const Operands kind = stride[2] == 0   ? Operands::right_constant
                        : stride[1] == 0 ? Operands::left_constant
                                         : Operands::both_vary;
  const auto run = f[static_cast<int>(kind)];
  if (run == nullptr) throw std::invalid_argument("binary: this operation is not defined for integers and masks");
  const bool direct = stride[0] == 1 && (stride[1] == 1 || kind == Operands::left_constant) &&
                      (stride[2] == 1 || (kind == Operands::right_constant && stride[1] == 1));
  if (direct) {
    loop.parallel_runs([&](int64_t n, const int64_t* at) { run(a.data + at[1], b.data + at[2], y.data + at[0], n); });
    return;
  }
  pieces(loop, y.data, [&](int64_t n, const int64_t* at, T* output) {
    T left[kStage], right[kStage];
    const T* pa = kind == Operands::left_constant ? a.data + at[1] : staged(a.data + at[1], stride[1], n, left);
    const T* pb = kind == Operands::right_constant ? b.data + at[2] : staged(b.data + at[2], stride[2], n, right);
    run(pa, pb, output, n);
  });
}

template <class T>
void compare(CompareOp op, View<const T> a, View<const T> b, View<bool> y) {
  const auto f = elements<T>().compare[static_cast<int>(op)];
  const auto loop = strided_loop(false, y, a, b);
  pieces(loop, y.data, [&](int64_t n, const int64_t* at, bool* output) {
    T left[kStage], right[kStage];
    f(staged(a.data + at[1], loop.inner_stride(1), n, left), staged(b.data + at[2], loop.inner_stride(2), n, right),
      output, n);
  });
}

template <class T>
void gate(View<const T> reference, View<const T> x, View<T> y, double slope) {
  const auto f = elements<T>().gate;
  const auto loop = strided_loop(false, y, reference, x);
  pieces(loop, y.data, [&](int64_t n, const int64_t* at, T* output) {
    T left[kStage], right[kStage];
    f(staged(reference.data + at[1], loop.inner_stride(1), n, left),
      staged(x.data + at[2], loop.inner_stride(2), n, right), output, n, slope);
  });
}

template <class T>
void select(View<const bool> condition, View<const T> a, View<const T> b, View<T> y) {
  const auto f = elements<T>().select;
  const auto loop = strided_loop(false, y, condition, a, b);
  pieces(loop, y.data, [&](int64_t n, const int64_t* at, T* output) {
    bool chosen[kStage];
    T left[kStage], right[kStage];
    f(staged(condition.data + at[1], loop.inner_stride(1), n, chosen),
      staged(a.data + at[2], loop.inner_stride(2), n, left), staged(b.data + at[3], loop.inner_stride(3), n, right),
      output, n);
  });
}

template <class T>
void copy(View<const T> x, View<T> y) {
  const auto loop = strided_loop(false, y, x);
  const int64_t to = loop.inner_stride(0), from = loop.inner_stride(1);
  loop.parallel_runs([&](int64_t n, const int64_t* at) {
    T* output = y.data + at[0];
    const T* input = x.data + at[1];
    if (to == 1 && from == 1) {
      std::memcpy(output, input, static_cast<size_t>(n) * sizeof(T));
    } else if (to == 1 && from == 0) {
      std::fill(output, output + n, *input);
    } else {
      for (int64_t i = 0; i < n; ++i) output[i * to] = input[i * from];
    }
  });
}

template <class T>
void fill(View<T> y, double value) {
  const auto loop = strided_loop(false, y);
  const int64_t stride = loop.inner_stride(0);
  const T v = static_cast<T>(value);
  loop.parallel_runs([&](int64_t n, const int64_t* at) {
    T* output = y.data + at[0];
    if (stride == 1) {
      std::fill(output, output + n, v);
    } else {
      for (int64_t i = 0; i < n; ++i) output[i * stride] = v;
    }
  });
}

#define GK_INSTANTIATE(T)                                                           \
  template void binary<T>(BinaryOp, View<const T>, View<const T>, View<T>);         \
  template void compare<T>(CompareOp, View<const T>, View<const T>, View<bool>);    \
  template void select<T>(View<const bool>, View<const T>, View<const T>, View<T>); \
  template void copy<T>(View<const T>, View<T>);                                    \
  template void fill<T>(View<T>, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(int64_t)
GK_INSTANTIATE(bool)
#define GK_INSTANTIATE_FLOAT(T)                                            \
  template void unary<T>(UnaryOp, View<const T>, View<T>, double, double); \
  template void gate<T>(View<const T>, View<const T>, View<T>, double);
GK_INSTANTIATE_FLOAT(float)
GK_INSTANTIATE_FLOAT(double)

}  // namespace gk::cpu
