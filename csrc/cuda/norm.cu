// Batch normalisation over (N, L) for each channel of x(N, C, L), on reduce.cuh. A thread sums differences from its
// first element, so a large mean costs no digits; threads and chunks are joined by the formula of Chan, Golub, LeVeque
// (1979).
#include "kernels.hpp"
#include "map.cuh"
#include "reduce.cuh"

namespace gk::cuda {
namespace {

template <class T>
struct Moments {
  struct State {
    double count, mean, square_sum;
  };
  struct Running {
    double count, shift, sum, square_sum;
  };
  const T* x;
  T *mean, *variance;
  int64_t mean_step, variance_step;

  __device__ Running start(int64_t) const { return {0, 0, 0, 0}; }
  __device__ void add(Running& s, const int64_t (&offset)[1]) const {
    const double v = static_cast<double>(x[offset[0]]);
    if (s.count == 0) s.shift = v;
    const double d = v - s.shift;
    s.count += 1;
    s.sum += d;
    s.square_sum = multiply_add(d, d, s.square_sum);
  }
  __device__ State state(const Running& s) const {
    if (s.count == 0) return {0, 0, 0};
    const double d = s.sum / s.count;
    return {s.count, s.shift + d, s.square_sum - s.sum * d};
  }
  __device__ void join(State& a, const State& b) const {
    const double total = a.count + b.count;
    if (total == 0) return;
    const double step = b.mean - a.mean, share = b.count / total;
    a.mean += step * share;
    a.square_sum += b.square_sum + step * step * (a.count * share);
    a.count = total;
  }
  __device__ void finish(const State& s, int64_t c) const {
    mean[c * mean_step] = static_cast<T>(s.mean);
    variance[c * variance_step] =
        static_cast<T>(s.square_sum > 0 || s.square_sum != s.square_sum ? s.square_sum / s.count : 0.0);
  }
};

// sum of ct and of ct*(x - mean); from them the gradients and the coefficients of
// gx = a*ct + (slope*(x - mean) + constant) = weight*rstd*(ct - sum(ct)/M - (x - mean)*rstd^2*sum(ct*(x - mean))/M)
template <class T>
struct GradientSums {
  struct State {
    double ct, ct_x;
  };
  struct Running {
    double mean, ct, ct_x;
  };
  const T *x, *ct, *mean, *rstd, *weight;
  T *gweight, *gbias, *coefficients;  // coefficients(4, C): mean, a, slope, constant
  int64_t mean_step, rstd_step, weight_step, gweight_step, gbias_step, channels;
  double count;

  __device__ Running start(int64_t c) const { return {static_cast<double>(mean[c * mean_step]), 0, 0}; }
  __device__ void add(Running& s, const int64_t (&offset)[2]) const {
    const double t = static_cast<double>(ct[offset[1]]);
    s.ct += t;
    s.ct_x = multiply_add(t, static_cast<double>(x[offset[0]]) - s.mean, s.ct_x);
  }
  __device__ State state(const Running& s) const { return {s.ct, s.ct_x}; }
  __device__ void join(State& a, const State& b) const {
    a.ct += b.ct;
    a.ct_x += b.ct_x;
  }
  __device__ void finish(const State& s, int64_t c) const {
    const double r = static_cast<double>(rstd[c * rstd_step]), a = static_cast<double>(weight[c * weight_step]) * r;
    gbias[c * gbias_step] = static_cast<T>(s.ct);
    gweight[c * gweight_step] = static_cast<T>(s.ct_x * r);
    coefficients[c] = mean[c * mean_step];
    coefficients[channels + c] = static_cast<T>(a);
    coefficients[2 * channels + c] = static_cast<T>(-a * r * r * s.ct_x / count);
    coefficients[3 * channels + c] = static_cast<T>(-a * s.ct / count);
  }
};

template <class T>
struct Gradient {
  __device__ T operator()(T x, T ct, T mean, T a, T slope, T constant) const {
    return a * ct + (slope * (x - mean) + constant);
  }
};

template <class T>
struct Affine {
  __device__ T operator()(T x, T scale, T shift) const { return x * scale + shift; }
};

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

}  // namespace

template <class T>
void channel_moments(View<const T> x, View<T> mean, View<T> variance) {
  if (x.size() == 0) {
    fill(mean, NAN);
    return fill(variance, NAN);
  }
  reduce_channels(Moments<T>{x.data, mean.data, variance.data, mean.stride[0], variance.stride[0]}, x);
}

template <class T>
void channel_affine(View<const T> x, View<const T> scale, View<const T> shift, View<T> y) {
  map(Affine<T>(), y, x, along_channels(x, scale.data, scale.stride[0]),
      along_channels(x, shift.data, shift.stride[0]));
}

template <class T>
void batch_norm_backward(View<const T> x, View<const T> ct, View<const T> mean, View<const T> rstd,
                         View<const T> weight, View<T> gx, View<T> gweight, View<T> gbias) {
  if (x.size() == 0) {
    fill(gweight, 0.0);
    return fill(gbias, 0.0);
  }
  const int64_t C = x.shape[1];
  const Scratch<T> coefficients(4 * C);
  reduce_channels(GradientSums<T>{x.data, ct.data, mean.data, rstd.data, weight.data, gweight.data, gbias.data,
                                  coefficients.data(), mean.stride[0], rstd.stride[0], weight.stride[0],
                                  gweight.stride[0], gbias.stride[0], C, static_cast<double>(x.shape[0] * x.shape[2])},
                  x, ct);
  const auto coefficient = [&](int i) { return along_channels<T>(x, coefficients.data() + i * C, 1); };
  map(Gradient<T>(), gx, x, ct, coefficient(0), coefficient(1), coefficient(2), coefficient(3));
}

#define GK_INSTANTIATE(T)                                                                                         \
  template void channel_moments<T>(View<const T>, View<T>, View<T>);                                              \
  template void channel_affine<T>(View<const T>, View<const T>, View<const T>, View<T>);                          \
  template void batch_norm_backward<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>, \
                                       View<T>, View<T>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cuda
