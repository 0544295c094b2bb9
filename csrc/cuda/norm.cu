// Batch normalisation over (N, L) for each channel of x(N, C, L), on reduce.cuh and moments.cuh. An epilogue is part of
// the pass that writes y, and its gradient of both backward passes.
#include "../core/error.hpp"
#include "epilogue.cuh"
#include "epilogue.hpp"
#include "index.cuh"
#include "kernels.hpp"
#include "map.cuh"
#include "moments.cuh"
#include "reduce.cuh"

namespace gk::cuda {
namespace {

template <class T>
struct Moments {
  using State = MomentState<double>;
  using Running = MomentSums<double>;
  using C = Compute<T>;
  const T* x;
  C *mean, *variance;
  int64_t mean_step, variance_step;

  __device__ Running start(int64_t) const { return Running(); }
  __device__ void add(Running& s, const int64_t (&offset)[1]) const { s.add(static_cast<double>(x[offset[0]])); }
  __device__ State state(const Running& s) const { return s.state(); }
  __device__ void join(State& a, const State& b) const { a.join(b); }
  __device__ void finish(const State& s, int64_t c) const {
    mean[c * mean_step] = static_cast<C>(s.mean);
    variance[c * variance_step] =
        static_cast<C>(s.square_sum > 0 || s.square_sum != s.square_sum ? s.square_sum / s.count : 0.0);
  }
};

// The same from the moments of pieces.
template <class T>
struct FoundMoments {
  using State = MomentState<double>;
  using Running = State;
  Moments<T> moments;
  const MomentState<Compute<T>>* found;

  __device__ Running start(int64_t) const { return {0, 0, 0}; }
  __device__ void add(Running& s, const int64_t (&offset)[1]) const {
    const MomentState<Compute<T>> piece = found[offset[0]];
    s.join({static_cast<double>(piece.count), static_cast<double>(piece.mean), static_cast<double>(piece.square_sum)});
  }
  __device__ State state(const Running& s) const { return s; }
  __device__ void join(State& a, const State& b) const { a.join(b); }
  __device__ void finish(const State& s, int64_t c) const { moments.finish(s, c); }
};

// The cotangent of the normalised element, of what is given: it, or that of y after an epilogue and y.
template <class T>
struct Given {
  __device__ __forceinline__ T operator()(T ct) const { return ct; }
};
template <class T>
struct Gated {
  EpilogueGradient<T> gradient;
  __device__ __forceinline__ T operator()(T ct, T y) const { return gradient(y, ct); }
};

// sum of ct and of ct*(x - mean); from them the gradients and the coefficients of
// gx = a*ct + (slope*(x - mean) + constant) = weight*rstd*(ct - sum(ct)/M - (x - mean)*rstd^2*sum(ct*(x - mean))/M)
// for ct = cotangent(given...)
template <class T, class F, size_t kGiven>
struct GradientSums {
  struct State {
    double ct, ct_x;
  };
  struct Running {
    double mean, ct, ct_x;
  };
  using C = Compute<T>;
  F cotangent;
  const T *x, *given[kGiven];
  const C *mean, *rstd, *weight;
  C *gweight, *gbias, *coefficients;  // coefficients(4, channels): mean, a, slope, constant
  int64_t mean_step, rstd_step, weight_step, gweight_step, gbias_step, channels;
  double count;

  __device__ Running start(int64_t c) const { return {static_cast<double>(mean[c * mean_step]), 0, 0}; }
  __device__ void add(Running& s, const int64_t (&offset)[1 + kGiven]) const {
    const double t = static_cast<double>(at(std::make_index_sequence<kGiven>(), offset));
    s.ct += t;
    s.ct_x = multiply_add(t, static_cast<double>(x[offset[0]]) - s.mean, s.ct_x);
  }
  template <size_t... I>
  __device__ C at(std::index_sequence<I...>, const int64_t* offset) const {
    return cotangent(given[I][offset[1 + I]]...);
  }
  __device__ State state(const Running& s) const { return {s.ct, s.ct_x}; }
  __device__ void join(State& a, const State& b) const {
    a.ct += b.ct;
    a.ct_x += b.ct_x;
  }
  __device__ void finish(const State& s, int64_t c) const {
    const double r = static_cast<double>(rstd[c * rstd_step]), a = static_cast<double>(weight[c * weight_step]) * r;
    gbias[c * gbias_step] = static_cast<C>(s.ct);
    gweight[c * gweight_step] = static_cast<C>(s.ct_x * r);
    coefficients[c] = mean[c * mean_step];
    coefficients[channels + c] = static_cast<C>(a);
    coefficients[2 * channels + c] = static_cast<C>(-a * r * r * s.ct_x / count);
    coefficients[3 * channels + c] = static_cast<C>(-a * s.ct / count);
  }
};

template <class T, class F>
struct Gradient {
  F cotangent;
  template <class... V>
  __device__ T operator()(T x, T mean, T a, T slope, T constant, V... given) const {
    return a * cotangent(given...) + (slope * (x - mean) + constant);
  }
};

template <class T>
struct Affine {
  __device__ T operator()(T x, T scale, T shift) const { return x * scale + shift; }
};

// What is read of x(N, C, L), contiguous, to normalise it.
template <class T>
struct Normal {
  using C = Compute<T>;
  const T* x;
  const C *scale, *shift;
  int64_t scale_step, shift_step, size, channels, length;
  bool packed;  // x begins at a multiple of 16 bytes
};

// A thread scales, shifts and finishes the four elements of a Philox block, and counts on along the channels: they may
// lie in several.
template <class T>
__global__ void __launch_bounds__(kMapThreads) norm_epilogue_kernel(const Normal<T> n, T* y, const Epilogue<T> after) {
  using C = Compute<T>;
  constexpr int kElements = 4, W = kPackSize<T, kElements>;
  const int64_t first = (blockIdx.x * int64_t(kMapThreads) + threadIdx.x) * kElements;
  if (first >= n.size) return;
  const int valid = n.size - first < kElements ? static_cast<int>(n.size - first) : kElements;
  C value[kElements] = {};
  if (n.packed && valid == kElements) {
    GK_UNROLL
    for (int part = 0; part < kElements; part += W) {
      const Pack<T, W> pack = load_pack<W>(n.x + first + part);
      GK_UNROLL
      for (int j = 0; j < W; ++j) value[part + j] = pack.value[j];
    }
  } else {
    GK_UNROLL
    for (int j = 0; j < kElements; ++j)
      if (j < valid) value[j] = n.x[first + j];
  }
  const int64_t plane = divide(first, n.length);
  int64_t channel = plane - divide(plane, n.channels) * n.channels, place = first - plane * n.length;
  C scale = n.scale[channel * n.scale_step], shift = n.shift[channel * n.shift_step];
  GK_UNROLL
  for (int j = 0; j < kElements; ++j, ++place) {
    if (place == n.length) {
      place = 0, channel = channel + 1 < n.channels ? channel + 1 : 0;
      scale = n.scale[channel * n.scale_step], shift = n.shift[channel * n.shift_step];
    }
    value[j] = Affine<C>()(value[j], scale, shift);
  }
  finish<kElements>(after, value, y + first, 0, 0);
  if (valid == kElements) {
    GK_UNROLL
    for (int part = 0; part < kElements; part += W) {
      Pack<T, W> pack;
      GK_UNROLL
      for (int j = 0; j < W; ++j) pack.value[j] = static_cast<T>(value[part + j]);
      store_pack<W>(y + first + part, pack);
    }
  } else {
    GK_UNROLL
    for (int j = 0; j < kElements; ++j)
      if (j < valid) y[first + j] = static_cast<T>(value[j]);
  }
}

// v(C) as an array of the shape of x(N, C, L)
template <class T, class X>
View<const T> along_channels(const View<X>& x, const T* data, int64_t step) {
  View<const T> v;
  v.data = data;
  v.rank = 3;
  for (int i = 0; i < 3; ++i) {
    v.shape[i] = x.shape[i];
    v.stride[i] = i == 1 ? step : 0;
  }
  return v;
}

// For each channel, over N and L of K arrays of the same shape; the output is the channel's number.
template <class R, class... V>
void reduce_channels(const R& r, const View<V>&... x) {
  constexpr int K = sizeof...(V);
  const auto& first = std::get<0>(std::tie(x...));
  HostAxes<K + 1> kept;
  kept.push(first.shape[1], x.stride[1]..., 1);
  HostAxes<K> summed;
  for (int i : {0, 2}) summed.push(first.shape[i], x.stride[i]...);
  kept.merge();
  summed.sort();
  summed.merge();
  reduce<K>(r, kept, summed);
}

// `given` are arrays of x's shape, of which `cotangent` makes the cotangents of the normalised elements.
template <class T, class F, class... V>
void norm_backward(const F& cotangent, View<const T> x, View<const Compute<T>> mean, View<const Compute<T>> rstd,
                   View<const Compute<T>> weight, View<T> gx, View<Compute<T>> gweight, View<Compute<T>> gbias,
                   const View<V>&... given) {
  if (x.size() == 0) {
    fill(gweight, 0.0);
    return fill(gbias, 0.0);
  }
  const int64_t C = x.shape[1];
  const Scratch<Compute<T>> coefficients(4 * C);
  reduce_channels(GradientSums<T, F, sizeof...(V)>{cotangent,
                                                   x.data,
                                                   {given.data...},
                                                   mean.data,
                                                   rstd.data,
                                                   weight.data,
                                                   gweight.data,
                                                   gbias.data,
                                                   coefficients.data(),
                                                   mean.stride[0],
                                                   rstd.stride[0],
                                                   weight.stride[0],
                                                   gweight.stride[0],
                                                   gbias.stride[0],
                                                   C,
                                                   static_cast<double>(x.shape[0] * x.shape[2])},
                  x, given...);
  const auto coefficient = [&](int i) { return along_channels<Compute<T>>(x, coefficients.data() + i * C, 1); };
  map(Gradient<Compute<T>, F>{cotangent}, gx, x, coefficient(0), coefficient(1), coefficient(2), coefficient(3),
      given...);
}

}  // namespace

template <class T>
void channel_moments(View<const T> x, View<Compute<T>> mean, View<Compute<T>> variance) {
  if (x.size() == 0) {
    fill(mean, NAN);
    return fill(variance, NAN);
  }
  reduce_channels(Moments<T>{x.data, mean.data, variance.data, mean.stride[0], variance.stride[0]}, x);
}

template <class T>
MomentState<Compute<T>>* StoredMoments<T>::found(int64_t pieces) {
  pieces_ = pieces;
  return found_.emplace(pieces * channels_).data();
}

template <class T>
void StoredMoments<T>::join(View<T> y, View<Compute<T>> mean, View<Compute<T>> variance) const {
  const Moments<T> moments{y.data, mean.data, variance.data, mean.stride[0], variance.stride[0]};
  if (pieces_ == 0) {
    View<const T> rows{y.data, 3, {y.shape[0], y.shape[1], 1}, {}};
    for (int i = 2; i < y.rank; ++i) rows.shape[2] *= y.shape[i];
    rows.stride[2] = 1, rows.stride[1] = rows.shape[2], rows.stride[0] = rows.shape[1] * rows.shape[2];
    return channel_moments(rows, mean, variance);
  }
  HostAxes<2> kept;
  HostAxes<1> summed;
  kept.push(channels_, 1, 1), summed.push(pieces_, channels_);
  reduce<1>(FoundMoments<T>{moments, found_->data()}, kept, summed);
}

template <class T>
void channel_affine(View<const T> x, View<const Compute<T>> scale, View<const Compute<T>> shift, View<T> y) {
  map(Affine<Compute<T>>(), y, x, along_channels(x, scale.data, scale.stride[0]),
      along_channels(x, shift.data, shift.stride[0]));
}

template <class T>
void batch_norm_backward(View<const T> x, View<const T> ct, View<const Compute<T>> mean, View<const Compute<T>> rstd,
                         View<const Compute<T>> weight, View<T> gx, View<Compute<T>> gweight, View<Compute<T>> gbias) {
  norm_backward(Given<Compute<T>>(), x, mean, rstd, weight, gx, gweight, gbias, ct);
}

template <class T>
void norm_epilogue(View<const T> x, View<const Compute<T>> scale, View<const Compute<T>> shift, View<T> y, double slope,
                   double p, uint64_t seed, uint64_t offset) {
  GK_CHECK(x.is_contiguous(), "norm_epilogue of an array with gaps");
  const Normal<T> n{x.data,          scale.data,      shift.data,
                    scale.stride[0], shift.stride[0], x.size(),
                    x.shape[1],      x.shape[2],      reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0};
  launch({blocks_for(n.size, int64_t(kMapThreads) * 4), kMapThreads}, norm_epilogue_kernel<T>, n, y.data,
         epilogue_of(y, View<const Compute<T>>{nullptr, 1, {}, {}}, slope, p, seed, offset));
}

template <class T>
void norm_epilogue_backward(View<const T> x, View<const T> y, View<const T> ct, View<const Compute<T>> mean,
                            View<const Compute<T>> rstd, View<const Compute<T>> weight, View<T> gx,
                            View<Compute<T>> gweight, View<Compute<T>> gbias, double slope, double p) {
  norm_backward(Gated<Compute<T>>{EpilogueGradient<Compute<T>>(slope, p)}, x, mean, rstd, weight, gx, gweight, gbias,
                ct, y);
}

#define GK_INSTANTIATE(T)                                                                                            \
  template class StoredMoments<T>;                                                                                   \
  template void channel_moments<T>(View<const T>, View<Compute<T>>, View<Compute<T>>);                               \
  template void channel_affine<T>(View<const T>, View<const Compute<T>>, View<const Compute<T>>, View<T>);           \
  template void batch_norm_backward<T>(View<const T>, View<const T>, View<const Compute<T>>, View<const Compute<T>>, \
                                       View<const Compute<T>>, View<T>, View<Compute<T>>, View<Compute<T>>);         \
  template void norm_epilogue<T>(View<const T>, View<const Compute<T>>, View<const Compute<T>>, View<T>, double,     \
                                 double, uint64_t, uint64_t);                                                        \
  template void norm_epilogue_backward<T>(View<const T>, View<const T>, View<const T>, View<const Compute<T>>,       \
                                          View<const Compute<T>>, View<const Compute<T>>, View<T>, View<Compute<T>>, \
                                          View<Compute<T>>, double, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
