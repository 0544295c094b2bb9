// One kind of product serves the whole family:  c[b, m, n] = sum over k of A[b, m, k] * B[b, n, k].
// Every index has four digits (outer, d, h, w). An element of an operand lies at the sum of its digits times strides
// and, where the operand is an image, at the cell that is the sum of digits times steps; outside the image it is zero.
// Matrix products, the three slots of a convolution (implicit GEMM), transposed convolution by phases and unshared
// weights differ in these maps only, so that one kernel serves them all and no column matrix is ever written.
#pragma once

#include <cstdint>
#include <type_traits>

#include "epilogue.cuh"

namespace gk::cuda {

// What is multiplied: fma rounds as T does; tf32 and bf16 round the factors (2^-11, 2^-8) and add in float32 on tensor
// cores. The latter two hold for float alone; arrays of bfloat16 are multiplied as they are, which is bf16.
enum class Precision { fma, tf32, bf16 };

// index = ((outer*extent[0] + d)*extent[1] + h)*extent[2] + w
struct Digits {
  int64_t outer = 1;
  int extent[3] = {1, 1, 1};
  int64_t count() const { return outer * extent[0] * extent[1] * extent[2]; }
};

struct Map {
  int64_t stride[4] = {};
  int step[3] = {};
};

template <class T>
struct Operand {
  const T* data = nullptr;
  Map line, inner, batch;      // line is m for A, n for B; inner is k
  int64_t tap_stride[3] = {};  // phased products: elements from one kernel tap to the next
  int origin[3] = {};          // cell where all digits are 0; `data` points at it, inside the image or not
  int bound[3] = {1, 1, 1};    // extents of the image
  bool image = false;          // cells are checked against `bound`
  bool inner_fastest = false;  // neighbouring k, not neighbouring lines, are neighbours in memory
};

// The taps of one axis of a transposed convolution that touch one cell q: those with dilation*k = q + pad mod stride,
// which are k = first + i*every, and tap number i reads position p = (q + pad - dilation*first)/stride - i*back.
struct PhaseAxis {
  int64_t stride = 1, dilation = 1, pad = 0, kernel = 1, cells = 1;
  int64_t divisor = 1;  // gcd(stride, dilation)
  int64_t every = 1;    // stride/divisor
  int64_t back = 1;     // dilation/divisor
  int64_t inverse = 0;  // of dilation/divisor, modulo `every`
};

template <class T>
struct Gemm {
  Operand<T> a, b;
  T* c = nullptr;
  Compute<T>* sums = nullptr;  // instead of a `c` of bfloat16: not rounded, for another kernel to add; no `after`
  int64_t c_m[4] = {}, c_n[4] = {}, c_batch[4] = {};
  bool accumulate = false;  // add to c
  Epilogue<T> after;        // of c; its channels are n, those of one batch entry after those of another, or m
  bool channels_along_m = false;
  Digits m, n, k, batch;
  // In a phased product the spatial digits of the batch are cells q; for each the axes' k extents, tap and position
  // origins follow. With `lines_follow` they are the first cells of the phases, whose cells q, q + stride, ... are m.
  bool phased = false, lines_follow = false;
  PhaseAxis phase[3];

  template <class R>
  void write_to(R* result) {
    if constexpr (std::is_same_v<R, T>)
      c = result;
    else
      sums = result;
  }
};

// The stream-ordered launch. Products with few tiles and a long k are cut along k; the parts are added in order.
template <class T>
void run_gemm(const Gemm<T>& g, Precision precision);

}  // namespace gk::cuda
