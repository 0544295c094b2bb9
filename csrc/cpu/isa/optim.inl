// Optimizer steps over contiguous runs; formulas and their order as in torch.optim (single tensor versions).

template <class T>
void sgd_run(T* __restrict p, const T* __restrict g, T* __restrict buffer, int64_t n, const SgdFactors<T>& f) {
  const T lr = f.lr, momentum = f.momentum, keep = f.keep, decay = f.weight_decay;
  if (!buffer) {
    for (int64_t i = 0; i < n; ++i) p[i] -= lr * (g[i] + decay * p[i]);
    return;
  }
  const T old = f.first ? T(0) : momentum;
  if (f.first)  // whatever the buffer held does not count, not even NaN
    for (int64_t i = 0; i < n; ++i) buffer[i] = T(0);
  for (int64_t i = 0; i < n; ++i) {
    const T d = g[i] + decay * p[i];
    const T b = old * buffer[i] + keep * d;
    buffer[i] = b;
    p[i] -= lr * (f.nesterov ? d + momentum * b : b);
  }
}

template <class T>
void adam_run(T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v, int64_t n,
              const AdamFactors<T>& f) {
  const T decay = f.decay, weight_decay = f.weight_decay, new1 = f.one_minus_beta1, beta2 = f.beta2;
  const T new2 = f.one_minus_beta2, step = f.step_size, root_scale = f.root_scale, eps = f.eps;
  for (int64_t i = 0; i < n; ++i) {
    const T q = p[i] * decay;
    const T d = g[i] + weight_decay * q;
    const T first = m[i] + (d - m[i]) * new1;
    const T second = v[i] * beta2 + new2 * (d * d);
    m[i] = first;
    v[i] = second;
    p[i] = q - step * (first / (sqrt_of(second) / root_scale + eps));
  }
}

template <class T, bool Centered, bool Momentum>
void rmsprop_loop(T* __restrict p, const T* __restrict g, T* __restrict v, T* __restrict buffer, T* __restrict grad_avg,
                  int64_t n, const RmspropFactors<T>& f) {
  const T lr = f.lr, alpha = f.alpha, fresh = f.one_minus_alpha, eps = f.eps, decay = f.weight_decay;
  const T momentum = f.momentum;
  for (int64_t i = 0; i < n; ++i) {
    const T d = g[i] + decay * p[i];
    const T second = alpha * v[i] + fresh * (d * d);
    v[i] = second;
    T spread = second;
    if (Centered) {
      const T average = grad_avg[i] + (d - grad_avg[i]) * fresh;
      grad_avg[i] = average;
      spread = second - average * average;
    }
    T update = d / (sqrt_of(spread) + eps);
    if (Momentum) {
      update = momentum * buffer[i] + update;
      buffer[i] = update;
    }
    p[i] -= lr * update;
  }
}

template <class T>
void rmsprop_run(T* p, const T* g, T* v, T* buffer, T* grad_avg, int64_t n, const RmspropFactors<T>& f) {
  if (grad_avg && buffer) return rmsprop_loop<T, true, true>(p, g, v, buffer, grad_avg, n, f);
  if (grad_avg) return rmsprop_loop<T, true, false>(p, g, v, buffer, grad_avg, n, f);
  if (buffer) return rmsprop_loop<T, false, true>(p, g, v, buffer, grad_avg, n, f);
  rmsprop_loop<T, false, false>(p, g, v, buffer, grad_avg, n, f);
}

template <class T>
void lerp_run(T* __restrict a, const T* __restrict b, int64_t n, const LerpFactors<T>& f) {
  const T part = f.part;
  if (f.from_a) {
    for (int64_t i = 0; i < n; ++i) a[i] += (b[i] - a[i]) * part;
  } else {
    for (int64_t i = 0; i < n; ++i) a[i] = b[i] - (b[i] - a[i]) * part;
  }
}
