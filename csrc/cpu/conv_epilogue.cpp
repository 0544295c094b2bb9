// A convolution or a product with what follows it (epilogue.hpp). The batch path adds the bias and applies the
// activation while its results are in the cache, on their way to memory; after the other paths, and for dropout, whose
// mask goes by the places of memory, the epilogue is a pass of its own.
#include "conv_paths.hpp"
#include "conv_plan.hpp"
#include "epilogue.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

// Contiguous (N, C, ...) as (N, C, L); (N, C) as it is.
template <class T>
View<T> flat(const View<T>& y) {
  if (y.rank == 2) return y;
  View<T> v{y.data, 3, {y.shape[0], y.shape[1], 1}, {}};
  for (int i = 2; i < y.rank; ++i) v.shape[2] *= y.shape[i];
  v.stride[2] = 1, v.stride[1] = v.shape[2], v.stride[0] = v.shape[1] * v.shape[2];
  return v;
}

// Does the path finish its results on their way to memory?
bool finishes(ConvAlgorithm path) { return path == ConvAlgorithm::batch || path == ConvAlgorithm::rows; }

template <class T>
ConvAlgorithm planned(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked) {
  if (asked == ConvAlgorithm::measured || asked == ConvAlgorithm::measured_fast || rounds_to_bf16<T>(asked))
    return asked;
  return conv_plan<T>(g, slot, asked);
}

// finished(path, finish) or plain(), and what is left of the epilogue of their output.
template <class T, class Finished, class Plain>
void then(ConvSlot slot, View<T> out, const ConvGeometry& g, ConvAlgorithm a, const Finish<T>& finish, double p,
          uint64_t seed, uint64_t offset, const Finished& finished, const Plain& plain) {
  const ConvAlgorithm path = planned<T>(g, slot, a);
  if (!finishes(path)) {
    plain();
    return epilogue<T>(flat(out), finish.bias, finish.slope, p, seed, offset);
  }
  const Inline small(conv_work(g) < kSmallWork);
  finished(path, finish);
  if (p > 0.0) epilogue<T>(flat(out), no_bias<T>(), 1.0, p, seed, offset);
}

}  // namespace

template <class T>
void conv_epilogue(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
                   View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  then<T>(
      ConvSlot::y, y, g, a, {bias, slope}, p, seed, offset,
      [&](ConvAlgorithm path, const Finish<T>& finish) {
        if (path == ConvAlgorithm::rows) return conv_rows<T>(x.volume(), w.volume(), y.volume(), g, finish);
        conv_batch<T>(x.volume(), w.volume(), y.volume(), g, finish);
      },
      [&] { conv<T>(x, w, y, g, a); });
}

template <class T>
void conv_transpose_epilogue(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                             View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  then<T>(
      ConvSlot::x, x, g, a, {bias, slope}, p, seed, offset,
      [&](ConvAlgorithm path, const Finish<T>& finish) {
        if (path == ConvAlgorithm::rows) return conv_transpose_rows<T>(y.volume(), w.volume(), x.volume(), g, finish);
        conv_transpose_batch<T>(y.volume(), w.volume(), x.volume(), g, finish);
      },
      [&] { conv_transpose<T>(y, w, x, g, a); });
}

template <class T>
void upsample_conv_epilogue(View<const T> x, View<const T> w, View<T> y, const UpsampleConvGeometry& g, ConvAlgorithm a,
                            View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  upsample_conv<T>(x, w, y, g, a);
  epilogue<T>(flat(y), bias, slope, p, seed, offset);
}

template <class T>
void matmul_epilogue(View<const T> a, View<const T> b, View<T> c, MatmulPrecision precision,
                     View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  matmul<T>(a, b, c, precision);
  View<T> rows = c;  // of one matrix
  rows.rank = 2, rows.shape[0] = c.shape[1], rows.shape[1] = c.shape[2];
  rows.stride[0] = c.stride[1], rows.stride[1] = c.stride[2];
  epilogue<T>(rows, bias, slope, p, seed, offset);
}

#define GK_INSTANTIATE(T)                                                                                             \
  template void conv_epilogue<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm,           \
                                 View<const T>, double, double, uint64_t, uint64_t);                                  \
  template void conv_transpose_epilogue<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm, \
                                           View<const T>, double, double, uint64_t, uint64_t);                        \
  template void upsample_conv_epilogue<T>(View<const T>, View<const T>, View<T>, const UpsampleConvGeometry&,         \
                                          ConvAlgorithm, View<const T>, double, double, uint64_t, uint64_t);          \
  template void matmul_epilogue<T>(View<const T>, View<const T>, View<T>, MatmulPrecision, View<const T>, double,     \
                                   double, uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
