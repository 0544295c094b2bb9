// One row of a pooling window: a tap of every output position at once. `step` is the distance between the cells that
// neighbouring outputs see; 1 and 2 are compiled apart, so that the loads become vectors.

template <class T, class Step>
inline void max_tap_loop(const T* __restrict x, Step step, int64_t n, int32_t tap, T* __restrict best,
                         int32_t* __restrict taps) {
  for (int64_t i = 0; i < n; ++i) {
    const T v = x[i * step];
    const bool take = (v > best[i]) | (v != v);
    best[i] = take ? v : best[i];
    taps[i] = take ? tap : taps[i];
  }
}

template <class T, class Step>
inline void add_tap_loop(const T* __restrict x, Step step, int64_t n, double* __restrict total) {
  for (int64_t i = 0; i < n; ++i) total[i] += static_cast<double>(x[i * step]);
}

template <class T, class Step>
inline void spread_tap_loop(const T* __restrict y, T* __restrict x, Step step, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i * step] += y[i];
}

template <int64_t Value>
struct Constant {
  constexpr operator int64_t() const { return Value; }
};

template <class T>
void max_tap_run(const T* x, int64_t step, int64_t n, int32_t tap, T* best, int32_t* taps) {
  if (step == 1) return max_tap_loop(x, Constant<1>(), n, tap, best, taps);
  if (step == 2) return max_tap_loop(x, Constant<2>(), n, tap, best, taps);
  max_tap_loop(x, step, n, tap, best, taps);
}

template <class T>
void add_tap_run(const T* x, int64_t step, int64_t n, double* total) {
  if (step == 1) return add_tap_loop(x, Constant<1>(), n, total);
  if (step == 2) return add_tap_loop(x, Constant<2>(), n, total);
  add_tap_loop(x, step, n, total);
}

template <class T>
void spread_tap_run(const T* y, T* x, int64_t step, int64_t n) {
  if (step == 1) return spread_tap_loop(y, x, Constant<1>(), n);
  spread_tap_loop(y, x, step, n);
}

// y[i*factor + j] = x[i]
template <class T>
void repeat_run(const T* __restrict x, T* __restrict y, int64_t n, int64_t factor) {
  if (factor == 2) {
    for (int64_t i = 0; i < n; ++i) y[2 * i] = y[2 * i + 1] = x[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < factor; ++j) y[i * factor + j] = x[i];
}
