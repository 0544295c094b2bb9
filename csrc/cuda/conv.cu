// Which path a convolution takes: the one place that chooses.
// float32 takes the direct path where that covers the geometry with its lanes full, else products, with taps folded
// where outputs are few; float64 takes products. By name:
//   direct       the direct path wherever it covers the geometry, else as above
//   im2col       columns in memory and a product: the reference, and the way for cells beyond 32 bits
//   tf32, bf16   products on tensor cores: float32 factors rounded to 11 or 8 bits, sums in float32; bf16_auto and
//                bf16_fast too
// The other names of core/geometry.hpp are ways of the CPU. Nothing but tf32 and bf16 changes the precision. Arrays of
// bfloat16 take the products of bf16, by whatever name but im2col, and fold as float32 does.
#include "conv_paths.hpp"
#include "epilogue.hpp"
#include "kernels.hpp"
#include "memory.hpp"

namespace gk::cuda {
namespace {

// Up to these many outputs, taps along w go beside them: see conv_folded.cu.
constexpr int64_t kFoldOutputs = 16;

template <class T>
Precision precision_of(ConvAlgorithm a) {
  if (std::is_same_v<T, bfloat16>) return Precision::bf16;
  if (sizeof(T) != sizeof(float)) return Precision::fma;
  if (a == ConvAlgorithm::tf32) return Precision::tf32;
  const bool bf16 = a == ConvAlgorithm::bf16 || a == ConvAlgorithm::bf16_auto || a == ConvAlgorithm::bf16_fast;
  return bf16 ? Precision::bf16 : Precision::fma;
}

bool is_empty(const ConvGeometry& g) { return g.batch * g.in_channels * g.x_volume() * g.y_volume() == 0; }

bool through_columns(ConvAlgorithm a, const ConvGeometry& g) {
  return !is_empty(g) && (a == ConvAlgorithm::im2col || !fits_cells(g));
}

// A few outputs would leave most of the direct path's eight idle; without a run of taps no window slides.
bool slides(ConvAlgorithm a, int64_t outputs, const ConvGeometry& g) {
  if (is_empty(g) || precision_of<float>(a) != Precision::fma) return false;
  return a == ConvAlgorithm::direct || (outputs > 2 && g.kernel[2] > 1 && g.taps() >= 8);
}

template <class T>
bool folds(int64_t outputs, const ConvGeometry& g) {
  return sizeof(T) <= sizeof(float) && !is_empty(g) && g.kernel[2] > 1 && outputs <= kFoldOutputs;
}

// Folding makes m shorter and n longer; a tile is 128 lines of m, and fetching a line costs about 16 multiply-adds.
bool folds_weight(const ConvGeometry& g) {
  if (is_empty(g) || g.stride[2] != 1 || g.kernel[2] == 1) return false;
  const auto cost = [](int64_t m, int64_t n) { return (m + 127) / 128 * ((n + 7) / 8 * 8 + 16); };
  const int64_t m = g.in_channels / g.groups * g.taps(), n = g.out_channels / g.groups;
  return cost(m / g.kernel[2], n * g.kernel[2]) < cost(m, n);
}

}  // namespace

template <class T>
void conv_then(View<const T> x_any, View<const T> w_any, View<T> y_any, const ConvGeometry& g, ConvAlgorithm a,
               const Epilogue<T>& after) {
  const View<const T> x = x_any.volume(), w = w_any.volume();
  const View<T> y = y_any.volume();
  const Precision p = precision_of<T>(a);
  const int64_t outputs = g.out_channels / g.groups;
  if (y.size() == 0) return;
  if (through_columns(a, g)) return conv_im2col(x, w, y, g, after);
  if constexpr (sizeof(T) == sizeof(float))
    if (slides(a, outputs, g) && conv_direct(x, w, y, g, after)) return;
  if (folds<T>(outputs, g)) return conv_folded(x, w, y, g, p, after);
  Gemm<T> product = conv_product(x, w, y, g);
  product.after = after;
  run_gemm(product, p);
}

template <class T>
void conv_transpose_then(View<const T> y_any, View<const T> w_any, View<T> x_any, const ConvGeometry& g,
                         ConvAlgorithm a, const Epilogue<T>& after) {
  const View<const T> y = y_any.volume(), w = w_any.volume();
  const View<T> x = x_any.volume();
  const Precision p = precision_of<T>(a);
  const int64_t outputs = g.in_channels / g.groups;
  if (x.size() == 0) return;
  if (through_columns(a, g)) return conv_transpose_im2col(y, w, x, g, after);
  if constexpr (sizeof(T) == sizeof(float))
    if (slides(a, outputs, g) && conv_transpose_direct(y, w, x, g, after)) return;
  if (folds<T>(outputs, g)) return conv_transpose_folded(y, w, x, g, p, after);
  Gemm<T> product = conv_transpose_product(y, w, x, g);
  product.after = after;
  run_gemm(product, p);
}

template <class T, class R>
void conv_weight_sums(View<const T> x_any, View<const T> y_any, View<R> w_any, const ConvGeometry& g, ConvAlgorithm a) {
  const View<const T> x = x_any.volume(), y = y_any.volume();
  const View<R> w = w_any.volume();
  const Precision p = precision_of<T>(a);
  if (w.size() == 0) return;
  if (through_columns(a, g)) {
    if constexpr (std::is_same_v<R, Compute<T>>) {
      return conv_weight_im2col(x, y, w, g);
    } else {  // what all images give is rounded once
      const int64_t shape[5] = {w.shape[0], w.shape[1], w.shape[2], w.shape[3], w.shape[4]};
      const Scratch<Compute<T>> sums(w.size());
      conv_weight_im2col(x, y, row_major(sums.data(), shape), g);
      return cast(row_major<const Compute<T>>(sums.data(), shape), w);
    }
  }
  if (folds_weight(g)) return conv_weight_folded(x, y, w, g, p);
  run_gemm(conv_weight_product(x, y, w, g), p);
}

template <class T>
void conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g, ConvAlgorithm a) {
  conv_weight_sums(x, y, w, g, a);
}

template <class T>
void conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a) {
  conv_then(x, w, y, g, a, Epilogue<T>());
}

template <class T>
void conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a) {
  conv_transpose_then(y, w, x, g, a, Epilogue<T>());
}

template <class T>
void conv_epilogue(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
                   View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  conv_then(x, w, y, g, a, epilogue_of(y, bias, slope, p, seed, offset));
}

template <class T>
void conv_transpose_epilogue(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                             View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  conv_transpose_then(y, w, x, g, a, epilogue_of(x, bias, slope, p, seed, offset));
}

template <class T>
void conv_moments(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a,
                  View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope, double p,
                  uint64_t seed, uint64_t offset) {
  with_moments(y, mean, variance, epilogue_of(y, bias, slope, p, seed, offset),
               [&](const Epilogue<T>& after) { conv_then(x, w, y, g, a, after); });
}

template <class T>
void conv_transpose_moments(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a,
                            View<Compute<T>> mean, View<Compute<T>> variance, View<const Compute<T>> bias, double slope,
                            double p, uint64_t seed, uint64_t offset) {
  with_moments(x, mean, variance, epilogue_of(x, bias, slope, p, seed, offset),
               [&](const Epilogue<T>& after) { conv_transpose_then(y, w, x, g, a, after); });
}

#define GK_INSTANTIATE(T)                                                                                             \
  template void conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);                   \
  template void conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);         \
  template void conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);            \
  template void conv_weight_sums<T>(View<const T>, View<const T>, View<Compute<T>>, const ConvGeometry&,              \
                                    ConvAlgorithm);                                                                   \
  template void conv_transpose_then<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm,     \
                                       const Epilogue<T>&);                                                           \
  template void conv_epilogue<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm,           \
                                 View<const Compute<T>>, double, double, uint64_t, uint64_t);                         \
  template void conv_transpose_epilogue<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm, \
                                           View<const Compute<T>>, double, double, uint64_t, uint64_t);               \
  template void conv_moments<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm,            \
                                View<Compute<T>>, View<Compute<T>>, View<const Compute<T>>, double, double, uint64_t, \
                                uint64_t);                                                                            \
  template void conv_transpose_moments<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm,  \
                                          View<Compute<T>>, View<Compute<T>>, View<const Compute<T>>, double, double, \
                                          uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
