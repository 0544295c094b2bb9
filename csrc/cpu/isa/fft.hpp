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
  int passes;  // 0: the identity
  FftPass<T> pass[kMaxPasses];
};

// Elements [first, last) of a transform: vector i - first of each part, `stride` elements apart. The others are zero
// (input) or not wanted (output). Exchange the parts of input and output for the inverse, which is not divided by n.
template <class T>
struct FftLine {
  T *re, *im;
  int64_t stride, first, last;
  bool stream;    // output: not read again before it has left the caches, and aligned to vectors
  int64_t ahead;  // elements from here to what is used soon, to be fetched into the caches meanwhile
};

template <class T>
struct FftTable {
  // work: 2*n complex vectors
  void (*transform)(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work);
  // Before another thread reads what was streamed.
  void (*settle)();

  // Twice the spectra (n/2 + 1) of the two real rows that one complex transform z (n) holds; b may be null.
  void (*split)(const T* z, int64_t n, T* a, T* b);
  // The way back: z (n) whose inverse transform is scale * (row of a + i * row of b); b may be null.
  void (*join)(const T* a, const T* b, T scale, int64_t n, T* z);

  // At one frequency, real and imaginary parts apart: y(b, o) = sum over c of w(o, c) * x(b, c), in order of c.
  // tile: a power of two up to the lanes; a complex vector of weights holds outputs [0, tile) of lanes/tile inputs, for
  // less than `lanes` outputs in one tile, else of one input for tile after tile. Up to `lanes` numbers behind x are
  // read and as many behind y written.
  void (*products)(const T* xr, const T* xi, int64_t images, int64_t inputs, const T* w, int tile, T* yr, T* yi,
                   int64_t outputs);

  // sums(j, i) += sum over b of p(b, i) * conj(q(b, j)), imaginary parts times sign; rows of sums are ps numbers and
  // what fills the last tile. images <= lanes. Up to `lanes` numbers behind p and q are read.
  void (*outer)(const T* pr, const T* pi, int64_t images, int64_t ps, int tile, const T* qr, const T* qi, int64_t qs,
                T sign, T* re_sums, T* im_sums);
};

}  // namespace gk::cpu
