// The three open slots of a convolution, computed by the path that conv_plan.cpp chooses.
#include <chrono>
#include <type_traits>

#include "bf16.hpp"
#include "conv_paths.hpp"
#include "conv_plan.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

// Two inputs and the output, as views of five axes.
template <class A, class B, class C>
using Kernel = void (*)(A, B, C, const ConvGeometry&);

template <class K>
struct Paths {
  K batch, channels, im2col, fft, bf16, rows;

  K of(ConvAlgorithm path) const {
    switch (path) {
      case ConvAlgorithm::channels:
        return channels;
      case ConvAlgorithm::im2col:
        return im2col;
      case ConvAlgorithm::fft:
        return fft;
      case ConvAlgorithm::bf16:
        return bf16;
      case ConvAlgorithm::rows:
        return rows;
      default:
        return batch;
    }
  }
};

// The fastest of one run each, after a first one that fills the caches.
template <class T, class Run>
ConvAlgorithm measure(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked, const Run& run) {
  ConvAlgorithm path;
  if (conv_plan_known<T>(g, slot, asked, &path)) return path;
  double least = -1;
  path = ConvAlgorithm::batch;
  for (const ConvEstimate& estimate : conv_estimates<T>(g, slot, asked)) {
    const ConvAlgorithm candidate = estimate.path;
    run(candidate);
    const auto start = std::chrono::steady_clock::now();
    run(candidate);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (least < 0 || seconds < least) least = seconds, path = candidate;
  }
  remember_conv_plan<T>(g, slot, asked, path);
  return path;
}

template <class T, class A, class B, class C>
void run(const Paths<Kernel<A, B, C>>& paths, A a, B b, C c, const ConvGeometry& g, ConvSlot slot,
         ConvAlgorithm asked) {
  const Inline small(conv_work(g) < kSmallWork);
  const auto with = [&](ConvAlgorithm path) { paths.of(path)(a.volume(), b.volume(), c.volume(), g); };
  if (asked == ConvAlgorithm::measured || asked == ConvAlgorithm::measured_fast)
    return with(measure<T>(g, slot, asked, with));
  const ConvAlgorithm path = conv_plan<T>(g, slot, asked);
  if constexpr (std::is_same_v<T, float>) {
    if (rounds_to_bf16<T>(asked) && path != ConvAlgorithm::bf16 && path != ConvAlgorithm::fft) {
      const Bf16Copy first(a.volume()), second(b.volume());
      return paths.of(path)(first.view(), second.view(), c.volume(), g);
    }
  }
  with(path);
}

// A path that only one type has.
template <class T>
auto only_float(void (*f)(View<const float>, View<const float>, View<float>, const ConvGeometry&)) {
  if constexpr (std::is_same_v<T, float>)
    return f;
  else
    return static_cast<Kernel<View<const T>, View<const T>, View<T>>>(nullptr);
}

}  // namespace

template <class T>
void conv(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, ConvAlgorithm a) {
  const Paths<Kernel<View<const T>, View<const T>, View<T>>> paths{plain<T, conv_batch<T>>,  conv_channels<T>,
                                                                   conv_im2col<T>,           conv_fft<T>,
                                                                   only_float<T>(conv_bf16), plain<T, conv_rows<T>>};
  run<T>(paths, x, w, y, g, ConvSlot::y, a);
}

template <class T>
void conv_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g, ConvAlgorithm a) {
  const Paths<Kernel<View<const T>, View<const T>, View<T>>> paths{
      plain<T, conv_transpose_batch<T>>,  conv_transpose_channels<T>,
      conv_transpose_im2col<T>,           conv_transpose_fft<T>,
      only_float<T>(conv_transpose_bf16), plain<T, conv_transpose_rows<T>>};
  run<T>(paths, y, w, x, g, ConvSlot::x, a);
}

template <class T>
void conv_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g, ConvAlgorithm a) {
  const Paths<Kernel<View<const T>, View<const T>, View<T>>> paths{
      conv_weight_batch<T>, conv_weight_channels<T>,         conv_weight_im2col<T>,
      conv_weight_fft<T>,   only_float<T>(conv_weight_bf16), nullptr};
  run<T>(paths, x, y, w, g, ConvSlot::w, a);
}

template <class T>
void conv_gradients(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw, const ConvGeometry& g,
                    ConvAlgorithm a) {
  if (!conv_gradients_share<T>(g, a)) {
    conv_transpose<T>(y, w, gx, g, a);
    return conv_weight<T>(x, y, gw, g, a);
  }
  const Inline small(conv_work(g) < kSmallWork);
  conv_gradients_fft<T>(x.volume(), w.volume(), y.volume(), gx.volume(), gw.volume(), g);
}

#define GK_INSTANTIATE(T)                                                                                             \
  template void conv_gradients<T>(View<const T>, View<const T>, View<const T>, View<T>, View<T>, const ConvGeometry&, \
                                  ConvAlgorithm);                                                                     \
  template void conv<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);                   \
  template void conv_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);         \
  template void conv_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, ConvAlgorithm);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
