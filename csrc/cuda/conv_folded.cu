// Kernel taps along w folded into the channels of the other side. A product with 6 or 8 channels as its n uses every
// element of the image 8 times, and fetching them costs more than multiplying them; with 5 taps beside each channel n
// is 40, and every element fetched (once a row of taps, not once a tap) is used 40 times.
//   forward          parts[n, o, kw, pd, ph, cell w] = product without the axis w; y = sum over kw of parts at
//                    cell stride*p + dilation*kw - pad
//   input gradient   parts[n, c, kw, d, h, position w]; x = sum over kw of parts at position (q + pad -
//   dilation*kw)/stride weight gradient  y is read at w + pad - dilation*kw for line (o, kw): nothing is left to add
// The parts of a few images at a time stay in the second cache (50 MB): written and read once, they cost KW/(C*taps)
// of the product's multiply-adds in additions.
#include <algorithm>
#include <climits>

#include "conv_paths.hpp"
#include "index.cuh"
#include "memory.hpp"
#include "launch.cuh"

namespace gk::cuda {
namespace {

constexpr int64_t kPartBytes = int64_t(32) << 20;
constexpr int kThreads = 256;

// out[n, c, d, h, i] = sum over k of parts[n, c, k, d, h, (i*step + k*tap_step + origin)/every], where that is whole
// and inside. One thread an output.
template <class T>
__global__ void add_taps_kernel(const Compute<T>* parts, View<T> out, int64_t taps, int64_t width, int64_t step,
                                int64_t tap_step, int64_t origin, int64_t every, int64_t total,
                                const Epilogue<T> after) {
  const int64_t lines = out.shape[2] * out.shape[3];
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    const int64_t line = divide(i, out.shape[4]), at = i - line * out.shape[4];
    const int64_t image = divide(line, lines), place = line - image * lines;  // image = (n, c)
    const Compute<T>* from = parts + (image * taps * lines + place) * width;
    Compute<T> sum[1] = {0};
    for (int64_t k = 0; k < taps; ++k, from += lines * width) {
      const int64_t cell = at * step + k * tap_step + origin;
      if (cell < 0) continue;
      const int64_t column = every == 1 ? cell : divide(cell, every);
      if (column < width && column * every == cell) sum[0] += from[column];
    }
    const int64_t n = divide(image, out.shape[1]), d = divide(place, out.shape[3]), c = image - n * out.shape[1];
    T* const to = out.data + n * out.stride[0] + c * out.stride[1] + d * out.stride[2] +
                  (place - d * out.shape[3]) * out.stride[3] + at * out.stride[4];
    if (after.y != nullptr) finish<1>(after, sum, to, c, 0);
    *to = static_cast<T>(sum[0]);
  }
}

// The geometry without its axis w: every cell along w is a position of its own.
ConvGeometry without_w(const ConvGeometry& g, int64_t width) {
  ConvGeometry flat = g;
  flat.kernel[2] = flat.stride[2] = flat.dilation[2] = 1;
  flat.pad_lo[2] = 0, flat.x[2] = flat.y[2] = width;
  return flat;
}

template <class T>
View<T> images(View<T> v, int64_t first, int64_t count) {
  v.data += first * v.stride[0];
  v.shape[0] = count;
  return v;
}

// Runs product(first image, images, parts) for a few images at a time and adds the taps of what it leaves in
// parts(n, channels, taps, D, H, width), given to it as a view of tap 0.
template <class T, class Product>
void in_parts(View<T> out, int64_t taps, int64_t width, int64_t step, int64_t tap_step, int64_t origin, int64_t every,
              const Epilogue<T>& after, Product product) {
  const int64_t tap = out.shape[2] * out.shape[3] * width, image = out.shape[1] * taps * tap;
  const int64_t fit = kPartBytes / std::max<int64_t>(1, image * static_cast<int64_t>(sizeof(Compute<T>)));
  const int64_t count = std::max<int64_t>(1, std::min(fit, out.shape[0]));
  const Scratch<Compute<T>> memory(count * image);
  for (int64_t first = 0; first < out.shape[0]; first += count) {
    const View<T> to = images(out, first, std::min(count, out.shape[0] - first));
    const View<Compute<T>> parts{memory.data(),
                                 5,
                                 {to.shape[0], to.shape[1], to.shape[2], to.shape[3], width},
                                 {image, taps * tap, to.shape[3] * width, width, 1}};
    product(first, to.shape[0], parts);
    const int64_t total = to.size();
    const auto blocks = static_cast<unsigned>(std::min<int64_t>((total + kThreads - 1) / kThreads, INT_MAX));
    launch({dim3(blocks), dim3(kThreads)}, add_taps_kernel<T>, memory.data(), to, taps, width, step, tap_step, origin,
           every, total, after);
  }
}

}  // namespace

template <class T>
void conv_folded(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, Precision precision,
                 const Epilogue<T>& after) {
  ConvGeometry flat = without_w(g, g.x[2]);
  in_parts(y, g.kernel[2], g.x[2], g.stride[2], g.dilation[2], -g.pad_lo[2], 1, after,
           [&](int64_t first, int64_t count, View<Compute<T>> parts) {
             flat.batch = count;
             Gemm<T> p = conv_product(images(x, first, count), w, parts, flat);
             p.n.extent[2] = static_cast<int>(g.kernel[2]);
             p.b.line.stride[3] = w.stride[4];
             p.c_n[3] = parts.stride[1] / g.kernel[2];
             run_gemm(p, precision);
           });
}

template <class T>
void conv_transpose_folded(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, Precision precision,
                           const Epilogue<T>& after) {
  ConvGeometry flat = without_w(g, g.y[2]);
  in_parts(x, g.kernel[2], g.y[2], 1, -g.dilation[2], g.pad_lo[2], g.stride[2], after,
           [&](int64_t first, int64_t count, View<Compute<T>> parts) {
             flat.batch = count;
             Gemm<T> p = conv_transpose_product(images(y, first, count), w, parts, flat);
             p.n.extent[2] = static_cast<int>(g.kernel[2]);
             p.b.line.stride[3] = w.stride[4];
             p.c_n[3] = parts.stride[1] / g.kernel[2];
             run_gemm(p, precision);
           });
}

template <class T, class R>
void conv_weight_folded(View<const T> x, View<const T> y, View<R> w, const ConvGeometry& g, Precision precision) {
  Gemm<T> p = conv_weight_product(x, y, w, without_w(g, g.x[2]));
  p.n.extent[2] = static_cast<int>(g.kernel[2]);
  p.c_n[3] = w.stride[4];
  p.b.image = true;
  p.b.data += g.pad_lo[2] * y.stride[4];
  p.b.origin[2] = static_cast<int>(g.pad_lo[2]), p.b.bound[2] = static_cast<int>(g.y[2]);
  p.b.inner.step[2] = 1, p.b.line.step[2] = static_cast<int>(-g.dilation[2]);
  p.b.line.stride[3] = -g.dilation[2] * y.stride[4];
  run_gemm(p, precision);
}

#define GK_INSTANTIATE(T)                                                                                       \
  template void conv_folded<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, Precision,           \
                               const Epilogue<T>&);                                                             \
  template void conv_transpose_folded<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, Precision, \
                                         const Epilogue<T>&);                                                   \
  template void conv_weight_folded<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, Precision);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
template void conv_weight_folded<bfloat16>(View<const bfloat16>, View<const bfloat16>, View<float>, const ConvGeometry&,
                                           Precision);

}  // namespace gk::cuda
