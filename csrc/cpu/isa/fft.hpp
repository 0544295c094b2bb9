// The inner loops of the FFT convolution, per instruction set. A "complex vector" is one vector of real parts and one
// of imaginary parts behind it, so lane l of every one of them is a transform of its own and no butterfly shuffles. No
// function is defined here: the per-ISA files include this header.
#pragma once

#include <cstdint>

namespace gk::cpu {

using std::int64_t;

// One pass of a Stockham transform: element q + s*(p + m*k) to q + s*(radix*p + j), times exp(-2*pi*i*p*j/(radix*m)).
template <class T>
struct FftPass {
  int radix;
  int64_t m, s;
  const T* twiddles;  // (p, j = 1 ... radix - 1, real and imaginary part)
};

template <class T>
struct FftPlan {
  static constexpr int kMaxPasses = 10;

  int64_t n;
  int passes;  // 0: n = 1
  FftPass<T> pass[kMaxPasses];
};

// Elements [first, last) of a transform: vector i - first of each part, `stride` elements apart. The others are zero
// (input) or not wanted (output). Exchange the parts of input and output for the inverse, which is not divided by n.
template <class T>
struct FftLine {
  T *re, *im;
  int64_t stride, first, last;
};

template <class T>
struct FftTable {
  int max_tile;  // output channels of a tile of `products`: 1, 2, 4 ... max_tile, all of them divisors of the lanes

  // work: 2*n complex vectors
  void (*transform)(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work);

  // Twice the spectra (n/2 + 1) of the two real rows that one complex transform z (n) holds; b may be null.
  void (*split)(const T* z, int64_t n, T* a, T* b);
  // The way back: z (n) whose inverse transform is scale * (row of a + i * row of b); b may be null.
  void (*join)(const T* a, const T* b, T scale, int64_t n, T* z);

  // y(o) = sum over c of w(o, c) * x(c) at one frequency, in order of c. x and y hold complex vectors; the weights of
  // tile t, channel c begin at element e = (t*inputs + c)*tile of w, which lies at (e / lanes)*2*lanes + e % lanes.
  // conjugate: of the weights.
  void (*products)(const T* x, int64_t inputs, const T* w, int tile, T* y, int64_t outputs, bool conjugate);

  // sums[j*rows + r] += sum over lanes of a(r*lanes/2 + i) * conj(b(j)), for complex vectors a (rows*lanes/2 of them)
  // and b (count): lane pairs (2i, 2i + 1) of a sum are one complex number.
  void (*outer)(const T* a, int64_t rows, const T* b, int64_t count, T* sums);
  // Sums 2j and 2j + 1 to the complex vector j of dst, imaginary parts times sign.
  void (*unzip)(const T* sums, int64_t count, T sign, T* dst);
};

}  // namespace gk::cpu
