// Mixed-radix FFT (Stockham: Cooley and Tukey's passes in an order that needs no bit reversal) on vectors of lanes, and
// the products between spectra. Every lane does what a scalar program would do.

// cos and sin of 2*pi*i/R
template <class T, int R>
struct Turn;
template <class T>
struct Turn<T, 3> {
  static constexpr T c[3] = {T(1), T(-0.5), T(-0.5)};
  static constexpr T s[3] = {T(0), T(0.86602540378443864676), T(-0.86602540378443864676)};
};
template <class T>
struct Turn<T, 5> {
  static constexpr T c1 = T(0.30901699437494742410), c2 = T(-0.80901699437494742410);
  static constexpr T s1 = T(0.95105651629515357212), s2 = T(0.58778525229247312917);
  static constexpr T c[5] = {T(1), c1, c2, c2, c1};
  static constexpr T s[5] = {T(0), s1, s2, -s2, -s1};
};
template <class T>
struct Turn<T, 7> {
  static constexpr T c1 = T(0.62348980185873353053), c2 = T(-0.22252093395631440429), c3 = T(-0.90096886790241912624);
  static constexpr T s1 = T(0.78183148246802980871), s2 = T(0.97492791218182360702), s3 = T(0.43388373911755812048);
  static constexpr T c[7] = {T(1), c1, c2, c3, c3, c2, c1};
  static constexpr T s[7] = {T(0), s1, s2, s3, -s3, -s2, -s1};
};

// The transform of R complex vectors in place.
template <class T, int R>
static inline void butterfly(typename Simd<T>::type* re, typename Simd<T>::type* im) {
  typedef typename Simd<T>::type V;
  if constexpr (R == 2) {
    const V r = re[0] - re[1], i = im[0] - im[1];
    re[0] = re[0] + re[1], im[0] = im[0] + im[1];
    re[1] = r, im[1] = i;
  } else if constexpr (R == 4) {
    const V ar = re[0] + re[2], ai = im[0] + im[2], br = re[0] - re[2], bi = im[0] - im[2];
    const V cr = re[1] + re[3], ci = im[1] + im[3], dr = re[1] - re[3], di = im[1] - im[3];
    re[0] = ar + cr, im[0] = ai + ci, re[2] = ar - cr, im[2] = ai - ci;
    re[1] = br + di, im[1] = bi - dr, re[3] = br - di, im[3] = bi + dr;
  } else {  // odd: elements j and R - j share their cosines and sines
    constexpr int H = R / 2;
    V sr[H], si[H], dr[H], di[H];
    GK_UNROLL for (int j = 0; j < H; ++j) {
      sr[j] = re[j + 1] + re[R - 1 - j], si[j] = im[j + 1] + im[R - 1 - j];
      dr[j] = re[j + 1] - re[R - 1 - j], di[j] = im[j + 1] - im[R - 1 - j];
    }
    const V r0 = re[0], i0 = im[0];
    GK_UNROLL for (int j = 0; j < H; ++j) re[0] = re[0] + sr[j], im[0] = im[0] + si[j];
    GK_UNROLL for (int k = 1; k <= H; ++k) {
      V ar = r0, ai = i0, br = {}, bi = {};
      GK_UNROLL for (int j = 0; j < H; ++j) {
        const V c = broadcast(Turn<T, R>::c[(j + 1) * k % R]), s = broadcast(Turn<T, R>::s[(j + 1) * k % R]);
        ar = fma(c, sr[j], ar), ai = fma(c, si[j], ai);
        br = j == 0 ? s * dr[j] : fma(s, dr[j], br), bi = j == 0 ? s * di[j] : fma(s, di[j], bi);
      }
      re[k] = ar + bi, im[k] = ai - br;
      re[R - k] = ar - bi, im[R - k] = ai + br;
    }
  }
}

// The lines of a spectrum lie far apart, but the line of the next frequency beside this one.
template <class T>
static inline void prefetch_next(const T* p) {
  __builtin_prefetch(p + 2 * Simd<T>::lanes);
}

template <class T, int R, bool First, bool Last>
static void pass(const FftPass<T>& f, const FftLine<const T>& in, const FftLine<T>& out) {
  typedef typename Simd<T>::type V;
  const FftLine<const T> x = in;
  const FftLine<T> y = out;
  const int64_t m = Last ? 1 : f.m, s = First ? 1 : f.s;
  for (int64_t p = 0; p < m; ++p) {
    const T* w = f.twiddles + p * (R - 1) * 2;
    for (int64_t q = 0; q < s; ++q) {
      V re[R], im[R];
      GK_UNROLL for (int k = 0; k < R; ++k) {
        const int64_t i = q + s * (p + m * k);
        if (!First || (i >= x.first && i < x.last)) {
          const int64_t at = (First ? i - x.first : i) * x.stride;
          re[k] = load(x.re + at), im[k] = load(x.im + at);
          if (First) prefetch_next(x.re + at), prefetch_next(x.im + at);
        } else {
          re[k] = V{}, im[k] = V{};
        }
      }
      butterfly<T, R>(re, im);
      GK_UNROLL for (int j = 0; j < R; ++j) {
        const int64_t i = q + s * (R * p + j);
        if (Last && (i < y.first || i >= y.last)) continue;
        const int64_t at = (Last ? i - y.first : i) * y.stride;
        if (Last || j == 0 || p == 0) {
          store(y.re + at, re[j]), store(y.im + at, im[j]);
          if (Last) prefetch_next(y.re + at), prefetch_next(y.im + at);
        } else {
          const V c = broadcast(w[2 * j - 2]), d = broadcast(w[2 * j - 1]);
          store(y.re + at, fma(c, re[j], -(d * im[j]))), store(y.im + at, fma(c, im[j], d * re[j]));
        }
      }
    }
  }
}

template <class T, int R>
static void any_pass(const FftPass<T>& f, const FftLine<const T>& x, const FftLine<T>& y, bool first, bool last) {
  if (first && last) {
    pass<T, R, true, true>(f, x, y);
  } else if (first) {
    pass<T, R, true, false>(f, x, y);
  } else if (last) {
    pass<T, R, false, true>(f, x, y);
  } else {
    pass<T, R, false, false>(f, x, y);
  }
}

template <class T>
static void transform(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work) {
  constexpr int L = Simd<T>::lanes;
  if (plan.passes == 0) {
    store(out.re, load(in.re)), store(out.im, load(in.im));
    return;
  }
  FftLine<const T> x = in;
  for (int i = 0; i < plan.passes; ++i) {
    const bool first = i == 0, last = i == plan.passes - 1;
    T* to = work + (i % 2) * plan.n * 2 * L;
    const FftLine<T> y = last ? out : FftLine<T>{to, to + L, 2 * L, 0, plan.n};
    switch (plan.pass[i].radix) {
      case 2:
        any_pass<T, 2>(plan.pass[i], x, y, first, last);
        break;
      case 3:
        any_pass<T, 3>(plan.pass[i], x, y, first, last);
        break;
      case 4:
        any_pass<T, 4>(plan.pass[i], x, y, first, last);
        break;
      case 5:
        any_pass<T, 5>(plan.pass[i], x, y, first, last);
        break;
      default:
        any_pass<T, 7>(plan.pass[i], x, y, first, last);
    }
    x = {y.re, y.im, y.stride, 0, plan.n};
  }
}

template <class T>
static void split(const T* z, int64_t n, T* a, T* b) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  for (int64_t k = 0; k <= n / 2; ++k, a += 2 * L) {
    const T *p = z + k * 2 * L, *q = z + (k == 0 ? 0 : n - k) * 2 * L;
    const V pr = load(p), pi = load(p + L), qr = load(q), qi = load(q + L);
    store(a, pr + qr), store(a + L, pi - qi);
    if (!b) continue;
    store(b, pi + qi), store(b + L, qr - pr);
    b += 2 * L;
  }
}

template <class T>
static void join(const T* a, const T* b, T scale, int64_t n, T* z) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  const V factor = broadcast(scale);
  for (int64_t k = 0; k <= n / 2; ++k) {
    const V ar = factor * load(a + k * 2 * L), ai = factor * load(a + k * 2 * L + L);
    const V br = b ? factor * load(b + k * 2 * L) : V{}, bi = b ? factor * load(b + k * 2 * L + L) : V{};
    T* p = z + k * 2 * L;
    if (k == 0 || 2 * k == n) {  // real in exact arithmetic
      store(p, ar), store(p + L, br);
      continue;
    }
    T* q = z + (n - k) * 2 * L;
    store(p, ar - bi), store(p + L, ai + br);
    store(q, ar + bi), store(q + L, br - ai);
  }
}

template <class T, int O>
static void product_tiles(const T* x, int64_t inputs, const T* w, T* y, int64_t outputs, bool conjugate) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  if constexpr (O <= L) {
    // i*conj(x) exchanges the parts of x, and i*conj(x)*w = i*conj(x*conj(w)).
    const int re = conjugate ? L : 0, im = L - re;
    int64_t e = 0;
    for (int64_t o = 0; o < outputs; o += O) {
      V yr[O] = {}, yi[O] = {};
      for (int64_t c = 0; c < inputs; ++c, e += O) {
        const V xr = load(x + c * 2 * L + re), xi = load(x + c * 2 * L + im), minus = -xi;
        const T* at = w + e / L * 2 * L + e % L;
        GK_UNROLL for (int j = 0; j < O; ++j) {
          const V wr = broadcast(at[j]), wi = broadcast(at[L + j]);
          yr[j] = fma(wr, xr, yr[j]), yi[j] = fma(wr, xi, yi[j]);
          yr[j] = fma(wi, minus, yr[j]), yi[j] = fma(wi, xr, yi[j]);
        }
      }
      GK_UNROLL for (int j = 0; j < O; ++j) {
        if (o + j < outputs) store(y + (o + j) * 2 * L + re, yr[j]), store(y + (o + j) * 2 * L + im, yi[j]);
      }
    }
  }
}

template <class T>
static void products(const T* x, int64_t inputs, const T* w, int tile, T* y, int64_t outputs, bool conjugate) {
  if (tile == 8) return product_tiles<T, 8>(x, inputs, w, y, outputs, conjugate);
  if (tile == 4) return product_tiles<T, 4>(x, inputs, w, y, outputs, conjugate);
  if (tile == 2) return product_tiles<T, 2>(x, inputs, w, y, outputs, conjugate);
  product_tiles<T, 1>(x, inputs, w, y, outputs, conjugate);
}

// Lanes of b are broadcast one after another, lanes of a have become vectors of channels.
template <class T, int B, int... I>
static inline void outer_tile(const T* turned, const T* b, T* sums, int64_t step, Indices<I...>) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V p[B] = {}, q[B] = {};
  for (int l = 0; l < L; ++l) {
    const V x = load(turned + l * L);
    GK_UNROLL for (int j = 0; j < B; ++j) {
      p[j] = fma(broadcast(b[j * 2 * L + l]), x, p[j]);
      q[j] = fma(broadcast(b[j * 2 * L + L + l]), x, q[j]);
    }
  }
  const V sign = {((I & 1) ? T(-1) : T(1))...};
  GK_UNROLL for (int j = 0; j < B; ++j) {
    T* at = sums + j * step;
    store(at, load(at) + fma(sign, GK_SHUFFLE(q[j], q[j], I ^ 1), p[j]));
  }
}

template <class T>
static void outer(const T* a, int64_t rows, const T* b, int64_t count, T* sums) {
  constexpr int L = Simd<T>::lanes, B = GK_VECTOR_BYTES == 64 ? 8 : 4;
  typedef typename Simd<T>::type V;
  typedef typename Count<L>::type All;
  const int64_t step = rows * L;
  for (int64_t r = 0; r < rows; ++r, a += L * L, sums += L) {
    V v[L];
    GK_UNROLL for (int i = 0; i < L; ++i) v[i] = load(a + i * L);
    transpose_stages<T, 1>(v);
    T turned[L * L];
    GK_UNROLL for (int i = 0; i < L; ++i) store(turned + i * L, v[i]);
    int64_t j = 0;
    for (; j + B <= count; j += B) outer_tile<T, B>(turned, b + j * 2 * L, sums + j * step, step, All());
    for (; j < count; ++j) outer_tile<T, 1>(turned, b + j * 2 * L, sums + j * step, step, All());
  }
}

template <class T, int... I>
static inline void unzip_pair(const T* sums, T sign, T* dst, Indices<I...>) {
  constexpr int L = Simd<T>::lanes;
  const typename Simd<T>::type a = load(sums), b = load(sums + L);
  store(dst, GK_SHUFFLE(a, b, 2 * I));
  store(dst + L, broadcast(sign) * GK_SHUFFLE(a, b, 2 * I + 1));
}

template <class T>
static void unzip(const T* sums, int64_t count, T sign, T* dst) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t j = 0; j < count; j += 2) unzip_pair(sums + j * L, sign, dst + j * L, typename Count<L>::type());
}

#define GK_FFT_TABLE(T, name)                                                                    \
  extern const FftTable<T> name;                                                                 \
  const FftTable<T> name = {Simd<T>::lanes < GK_WIDE_OUTPUTS ? Simd<T>::lanes : GK_WIDE_OUTPUTS, \
                            transform<T>,                                                        \
                            split<T>,                                                            \
                            join<T>,                                                             \
                            products<T>,                                                         \
                            outer<T>,                                                            \
                            unzip<T>};
GK_FFT_TABLE(float, fft_float)
GK_FFT_TABLE(double, fft_double)
