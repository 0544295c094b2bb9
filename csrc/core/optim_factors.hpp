// The numbers that the kernels of optimizer steps take: hyper-parameters of torch.optim, folded in double once a step
// and then rounded to T, so that every backend multiplies by the same ones. Host and device get the same bits: there is
// nothing in here that IEEE 754 does not define.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.hpp"

namespace gk {

template <class T>
struct SgdFactors {
  T lr, momentum, keep;  // keep = 1 - dampening, or 1 at the first step, when the buffer is the gradient
  T weight_decay;
  bool nesterov, first;
};

template <class T>
SgdFactors<T> sgd_factors(double lr, double momentum, double dampening, double weight_decay, bool nesterov,
                          std::int64_t step) {
  const bool first = step <= 1;
  return {static_cast<T>(lr),
          static_cast<T>(momentum),
          static_cast<T>(first ? 1.0 : 1.0 - dampening),
          static_cast<T>(weight_decay),
          nesterov,
          first};
}

// base^n by squaring, n >= 0 and 0 <= base < 1, because std::pow has other bits on a device. Its error is n - 1
// roundings at most, and n*base^n*(1 - base) <= base*(1 - base^n): hence 1 - power is right to 2^-53 / (1 - base),
// relatively.
GK_HOST_DEVICE inline double power(double base, std::int64_t n) {
  double found = 1.0;
  for (; n > 0; n /= 2, base *= base)
    if (n % 2 != 0) found *= base;
  return found;
}

template <class T>
struct AdamFactors {
  T decay;         // p *= decay first (AdamW)
  T weight_decay;  // g += weight_decay*p (Adam)
  T one_minus_beta1, beta2, one_minus_beta2;
  T step_size, root_scale, eps;  // p -= step_size * m / (sqrt(v)/root_scale + eps)
};

template <class T>
GK_HOST_DEVICE AdamFactors<T> adam_factors(double lr, double beta1, double beta2, double eps, double weight_decay,
                                           bool decoupled, std::int64_t step) {
  return {static_cast<T>(decoupled ? 1.0 - lr * weight_decay : 1.0),
          static_cast<T>(decoupled ? 0.0 : weight_decay),
          static_cast<T>(1.0 - beta1),
          static_cast<T>(beta2),
          static_cast<T>(1.0 - beta2),
          static_cast<T>(lr / (1.0 - power(beta1, step))),
          static_cast<T>(std::sqrt(1.0 - power(beta2, step))),
          static_cast<T>(eps)};
}

template <class T>
struct RmspropFactors {
  T lr, alpha, one_minus_alpha, eps, weight_decay, momentum;
};

template <class T>
RmspropFactors<T> rmsprop_factors(double lr, double alpha, double eps, double weight_decay, double momentum) {
  return {static_cast<T>(lr),  static_cast<T>(alpha),        static_cast<T>(1.0 - alpha),
          static_cast<T>(eps), static_cast<T>(weight_decay), static_cast<T>(momentum)};
}

// a + (b - a)*t from the nearer end, so that t = 0 and t = 1 are exact: a + (b - a)*part or b - (b - a)*part.
template <class T>
struct LerpFactors {
  T part;
  bool from_a;
};

template <class T>
LerpFactors<T> lerp_factors(double t) {
  const bool from_a = t < 0.5;
  return {static_cast<T>(from_a ? t : 1.0 - t), from_a};
}

}  // namespace gk
