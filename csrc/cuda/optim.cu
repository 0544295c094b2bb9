// Optimizer steps over contiguous parameters: one pass, bound by memory. Formulas and their order as in
// csrc/cpu/isa/optim.inl, hence the same bits; what a step computes of its new states, it computes before they are
// rounded to be stored. A state of size 0 is unused. In graphs, factors are read from device memory and steps counted
// there, so that a graph holds for any learning rate and count of steps.
#include "../core/optim_factors.hpp"
#include "factors.cuh"
#include "kernels.hpp"
#include "launch.cuh"

namespace gk::cuda {
namespace {

constexpr int kThreads = 256;

// One element a thread: neighbouring threads read neighbouring cells of up to five arrays, enough loads in flight.
template <class F, class X>
__global__ void __launch_bounds__(kThreads) each_kernel(F f, Factors<X> factors, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) f(i, factors.value());
}

template <class F>
auto for_each(const F& f, int64_t n) {
  return [f, n](const auto& factors) {
    using X = decltype(factors.given);
    launch({blocks_for(n, kThreads), kThreads}, each_kernel<F, X>, f, factors, n);
  };
}

template <class T>
T* state(const View<T>& v) {
  return v.size() == 0 ? nullptr : v.data;
}

template <class T>
struct Sgd {
  using C = Compute<T>;
  T* p;
  const T* g;
  T* buffer;

  __device__ void operator()(int64_t i, const SgdFactors<C>& by) const {
    const C q = p[i], d = g[i] + by.weight_decay * q;
    if (!buffer) {
      p[i] = static_cast<T>(q - by.lr * d);
      return;
    }
    // the first step ignores what the buffer held
    const C b = by.first ? by.keep * d : by.momentum * buffer[i] + by.keep * d;
    buffer[i] = static_cast<T>(b);
    p[i] = static_cast<T>(q - by.lr * (by.nesterov ? d + by.momentum * b : b));
  }
};

template <class T>
struct AdamSettings {
  double lr, beta1, beta2, eps, weight_decay;
  int64_t decoupled;

  GK_HOST_DEVICE AdamFactors<T> at(int64_t step) const {
    return adam_factors<T>(lr, beta1, beta2, eps, weight_decay, decoupled != 0, step);
  }
};

template <class T>
struct Adam {
  using C = Compute<T>;
  T* p;
  const T* g;
  T *m, *v;

  __device__ void operator()(int64_t i, const AdamFactors<C>& by) const {
    const C q = p[i] * by.decay;
    const C d = g[i] + by.weight_decay * q;
    const C before = m[i], first = before + (d - before) * by.one_minus_beta1;
    const C second = v[i] * by.beta2 + by.one_minus_beta2 * (d * d);
    m[i] = static_cast<T>(first);
    v[i] = static_cast<T>(second);
    p[i] = static_cast<T>(q - by.step_size * (first / (std::sqrt(second) / by.root_scale + by.eps)));
  }
};

template <class T>
struct Rmsprop {
  using C = Compute<T>;
  T* p;
  const T* g;
  T *v, *buffer, *grad_avg;

  __device__ void operator()(int64_t i, const RmspropFactors<C>& by) const {
    const C q = p[i], d = g[i] + by.weight_decay * q;
    const C second = by.alpha * v[i] + by.one_minus_alpha * (d * d);
    v[i] = static_cast<T>(second);
    C spread = second;
    if (grad_avg) {
      const C before = grad_avg[i], average = before + (d - before) * by.one_minus_alpha;
      grad_avg[i] = static_cast<T>(average);
      spread = second - average * average;
    }
    C update = d / (std::sqrt(spread) + by.eps);
    if (buffer) {
      update = by.momentum * buffer[i] + update;
      buffer[i] = static_cast<T>(update);
    }
    p[i] = static_cast<T>(q - by.lr * update);
  }
};

template <class T>
struct Lerp {
  using C = Compute<T>;
  T* a;
  const T* b;

  __device__ void operator()(int64_t i, const LerpFactors<C>& by) const {
    const C from = a[i], to = b[i];
    a[i] = static_cast<T>(by.from_a ? from + (to - from) * by.part : to - (to - from) * by.part);
  }
};

}  // namespace

template <class T>
void sgd_step(View<T> p, View<const T> g, View<T> momentum_buffer, double lr, double momentum, double dampening,
              double weight_decay, bool nesterov, int64_t step) {
  with_factors(sgd_factors<Compute<T>>(lr, momentum, dampening, weight_decay, nesterov, step),
               for_each(Sgd<T>{p.data, g.data, state(momentum_buffer)}, p.size()));
}

template <class T>
void adam_step(View<T> p, View<const T> g, View<T> exp_avg, View<T> exp_avg_sq, double lr, double beta1, double beta2,
               double eps, double weight_decay, bool decoupled, int64_t step) {
  with_counted_factors(AdamSettings<Compute<T>>{lr, beta1, beta2, eps, weight_decay, decoupled}, exp_avg.data, step,
                       for_each(Adam<T>{p.data, g.data, exp_avg.data, exp_avg_sq.data}, p.size()));
}

template <class T>
void rmsprop_step(View<T> p, View<const T> g, View<T> square_avg, View<T> momentum_buffer, View<T> grad_avg, double lr,
                  double alpha, double eps, double weight_decay, double momentum, bool centered) {
  with_factors(rmsprop_factors<Compute<T>>(lr, alpha, eps, weight_decay, momentum),
               for_each(Rmsprop<T>{p.data, g.data, square_avg.data, momentum > 0.0 ? state(momentum_buffer) : nullptr,
                                   centered ? state(grad_avg) : nullptr},
                        p.size()));
}

template <class T>
void lerp(View<T> a, View<const T> b, double t) {
  with_factors(lerp_factors<Compute<T>>(t), for_each(Lerp<T>{a.data, b.data}, a.size()));
}

#define GK_INSTANTIATE(T)                                                                                            \
  template void sgd_step<T>(View<T>, View<const T>, View<T>, double, double, double, double, bool, int64_t);         \
  template void adam_step<T>(View<T>, View<const T>, View<T>, View<T>, double, double, double, double, double, bool, \
                             int64_t);                                                                               \
  template void rmsprop_step<T>(View<T>, View<const T>, View<T>, View<T>, View<T>, double, double, double, double,   \
                                double, bool);                                                                       \
  template void lerp<T>(View<T>, View<const T>, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
