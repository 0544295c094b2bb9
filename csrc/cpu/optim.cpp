// Optimizer steps: one pass over the parameters. A state of size 0 is one that the variant does not use.
#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

template <class T>
T* part(const View<T>& state, int64_t begin) {
  return state.size() == 0 ? nullptr : state.data + begin;
}

}  // namespace

template <class T>
void sgd_step(View<T> p, View<const T> g, View<T> momentum_buffer, double lr, double momentum, double dampening,
              double weight_decay, bool nesterov, int64_t step) {
  const auto factors = sgd_factors<T>(lr, momentum, dampening, weight_decay, nesterov, step);
  const auto f = elements<T>().sgd;
  parallel_chunks(p.size(), kGrain, [&](int64_t begin, int64_t end) {
    f(p.data + begin, g.data + begin, part(momentum_buffer, begin), end - begin, factors);
  });
}

template <class T>
void adam_step(View<T> p, View<const T> g, View<T> exp_avg, View<T> exp_avg_sq, double lr, double beta1, double beta2,
               double eps, double weight_decay, bool decoupled, int64_t step) {
  const auto factors = adam_factors<T>(lr, beta1, beta2, eps, weight_decay, decoupled, step);
  const auto f = elements<T>().adam;
  parallel_chunks(p.size(), kGrain, [&](int64_t begin, int64_t end) {
    f(p.data + begin, g.data + begin, exp_avg.data + begin, exp_avg_sq.data + begin, end - begin, factors);
  });
}

template <class T>
void rmsprop_step(View<T> p, View<const T> g, View<T> square_avg, View<T> momentum_buffer, View<T> grad_avg, double lr,
                  double alpha, double eps, double weight_decay, double momentum, bool centered) {
  const auto factors = rmsprop_factors<T>(lr, alpha, eps, weight_decay, momentum);
  const auto f = elements<T>().rmsprop;
  parallel_chunks(p.size(), kGrain, [&](int64_t begin, int64_t end) {
    f(p.data + begin, g.data + begin, square_avg.data + begin, momentum > 0.0 ? part(momentum_buffer, begin) : nullptr,
      centered ? part(grad_avg, begin) : nullptr, end - begin, factors);
  });
}

template <class T>
void lerp(View<T> a, View<const T> b, double t) {
  const auto factors = lerp_factors<T>(t);
  const auto f = elements<T>().lerp;
  parallel_chunks(a.size(), kGrain,
                  [&](int64_t begin, int64_t end) { f(a.data + begin, b.data + begin, end - begin, factors); });
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

}  // namespace gk::cpu
