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
  } else if constexpr (R == 8) {  // of the even elements a and the odd ones b; b1 and b3 turn by 45 degrees more
    V ar[4], ai[4], br[4], bi[4];
    GK_UNROLL for (int k = 0; k < 4; ++k) {
      ar[k] = re[2 * k], ai[k] = im[2 * k], br[k] = re[2 * k + 1], bi[k] = im[2 * k + 1];
    }
    butterfly<T, 4>(ar, ai), butterfly<T, 4>(br, bi);
    const V c = broadcast(T(0.70710678118654752440));
    const V s1 = br[1] + bi[1], d1 = bi[1] - br[1], s3 = br[3] + bi[3], d3 = bi[3] - br[3];
    re[0] = ar[0] + br[0], im[0] = ai[0] + bi[0], re[4] = ar[0] - br[0], im[4] = ai[0] - bi[0];
    re[1] = fma(c, s1, ar[1]), im[1] = fma(c, d1, ai[1]), re[5] = fma(-c, s1, ar[1]), im[5] = fma(-c, d1, ai[1]);
    re[2] = ar[2] + bi[2], im[2] = ai[2] - br[2], re[6] = ar[2] - bi[2], im[6] = ai[2] + br[2];
    re[3] = fma(c, d3, ar[3]), im[3] = fma(-c, s3, ai[3]), re[7] = fma(-c, d3, ar[3]), im[7] = fma(c, s3, ai[3]);
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

// One pass. N: how many butterflies with neighbouring inputs and outputs it has where that is known (m of the first
// pass and s of the last), which spares the addresses their arithmetic; else 0.
template <class T, int R, bool First, bool Last, int N = 0>
static inline void pass(const FftPass<T>& f, const FftLine<const T>& in, const FftLine<T>& out) {
  typedef typename Simd<T>::type V;
  constexpr int L = Simd<T>::lanes;
  const FftLine<const T> x = in;
  const FftLine<T> y = out;
  const int64_t m = Last ? 1 : N > 0 ? N : f.m, s = First ? 1 : N > 0 ? N : f.s;
  const auto butterflies = [&](int64_t p, int64_t q) {
    const T* w = f.twiddles + p * (R - 1) * 2;
    V re[R], im[R];
    GK_UNROLL for (int k = 0; k < R; ++k) {
      const int64_t i = q + s * (p + m * k);
      if (!First) {
        re[k] = load(x.re + i * 2 * L), im[k] = load(x.re + i * 2 * L + L);
      } else if (i >= x.first && i < x.last) {
        const T *at_re = x.re + (i - x.first) * x.stride, *at_im = x.im + (i - x.first) * x.stride;
        re[k] = load(at_re), im[k] = load(at_im);
        __builtin_prefetch(at_re + x.ahead), __builtin_prefetch(at_im + x.ahead);
      } else {
        re[k] = V{}, im[k] = V{};
      }
    }
    butterfly<T, R>(re, im);
    GK_UNROLL for (int j = 0; j < R; ++j) {
      const int64_t i = q + s * (R * p + j);
      if (Last) {
        if (i < y.first || i >= y.last) continue;
        T *at_re = y.re + (i - y.first) * y.stride, *at_im = y.im + (i - y.first) * y.stride;
        if (y.stream) {
          stream(at_re, re[j]), stream(at_im, im[j]);
        } else {
          store(at_re, re[j]), store(at_im, im[j]);
          __builtin_prefetch(at_re + y.ahead), __builtin_prefetch(at_im + y.ahead);
        }
        continue;
      }
      T* at = y.re + i * 2 * L;
      if (j == 0 || p == 0) {
        store(at, re[j]), store(at + L, im[j]);
      } else {
        const V c = broadcast(w[2 * j - 2]), d = broadcast(w[2 * j - 1]);
        store(at, fma(c, re[j], -(d * im[j]))), store(at + L, fma(c, im[j], d * re[j]));
      }
    }
  };
  if constexpr (N > 0) {
    GK_UNROLL for (int i = 0; i < N; ++i) First ? butterflies(i, 0) : butterflies(0, i);
  } else {
    for (int64_t p = 0; p < m; ++p)
      for (int64_t q = 0; q < s; ++q) butterflies(p, q);
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

// Consecutive complex vectors.
template <class T>
static inline FftLine<T> whole_line(T* data, int64_t n) {
  return {data, data + Simd<T>::lanes, 2 * Simd<T>::lanes, 0, n, false, 0};
}

template <class T, int R, int S>
static void two_passes(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work) {
  pass<T, R, true, false, S>(plan.pass[0], in, whole_line(work, R * S));
  pass<T, S, false, true, R>(plan.pass[1], whole_line<const T>(work, R * S), out);
}

// Factors come largest first, so that the second is not beyond R.
template <class T, int R>
static void two_passes_from(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work) {
  const int second = plan.pass[1].radix;
  const auto run = second == 2   ? two_passes<T, R, 2>
                   : second == 3 ? two_passes<T, R, 3>
                   : second == 4 ? two_passes<T, R, (R < 4 ? R : 4)>
                   : second == 5 ? two_passes<T, R, (R < 5 ? R : 5)>
                   : second == 7 ? two_passes<T, R, (R < 7 ? R : 7)>
                                 : two_passes<T, R, R>;
  run(plan, in, out, work);
}

template <class T>
static void transform(const FftPlan<T>& plan, const FftLine<const T>& in, const FftLine<T>& out, T* work) {
  constexpr int L = Simd<T>::lanes;
  if (plan.passes == 0) {
    for (int64_t i = 0; i < plan.n; ++i) {
      store(out.re + i * out.stride, load(in.re + i * in.stride));
      store(out.im + i * out.stride, load(in.im + i * in.stride));
    }
    return;
  }
  if constexpr (sizeof(T) == sizeof(float)) {  // double is for checks: it is not worth seconds of compiling
    if (plan.passes == 2) {
      const int first = plan.pass[0].radix;
      const auto run = first == 8   ? two_passes_from<T, 8>
                       : first == 7 ? two_passes_from<T, 7>
                       : first == 5 ? two_passes_from<T, 5>
                       : first == 4 ? two_passes_from<T, 4>
                                    : two_passes_from<T, 3>;
      return run(plan, in, out, work);
    }
  }
  FftLine<const T> x = in;
  for (int i = 0; i < plan.passes; ++i) {
    const bool first = i == 0, last = i == plan.passes - 1;
    T* to = work + (i % 2) * plan.n * 2 * L;
    const FftLine<T> y = last ? out : whole_line(to, plan.n);
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
      case 7:
        any_pass<T, 7>(plan.pass[i], x, y, first, last);
        break;
      default:
        any_pass<T, 8>(plan.pass[i], x, y, first, last);
    }
    x = whole_line<const T>(to, plan.n);
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

// Q = lanes/TILE numbers at `at`, each in TILE lanes.
template <class T, int TILE, int... I>
static inline typename Simd<T>::type spread(const T* at, Indices<I...>) {
  if constexpr (TILE == Simd<T>::lanes) return broadcast(*at);
  const typename Simd<T>::type v = load(at);
  return GK_SHUFFLE(v, v, I / TILE);
}

// The same, zero from the number `count` on.
template <class T, int TILE, int... I>
static inline typename Simd<T>::type spread_few(const T* at, int64_t count, Indices<I...> all) {
  typedef typename Simd<T>::type V;
  const V number = {T(I / TILE)...};
  return number < broadcast(T(count)) ? spread<T, TILE>(at, all) : V{};
}

// Sums over the runs of TILE lanes, in the first of them; what lies behind it is not.
template <class T, int TILE, int HALF, int... I>
static inline typename Simd<T>::type fold(typename Simd<T>::type v, Indices<I...> all) {
  if constexpr (HALF < TILE) return v;
  const typename Simd<T>::type sum = v + GK_SHUFFLE(v, v, (I + HALF) % Simd<T>::lanes);
  return fold<T, TILE, HALF / 2>(sum, all);
}

template <class T, int TILE, int B>
static inline void product_tile(const T* xr, const T* xi, int64_t inputs, const T* w, T* yr, T* yi, int64_t outputs) {
  constexpr int L = Simd<T>::lanes, Q = L / TILE;
  typedef typename Simd<T>::type V;
  const typename Count<L>::type all;
  V re[B] = {}, im[B] = {};
  int64_t c = 0;
  for (; c + Q <= inputs; c += Q, w += 2 * L) {
    const V wr = load(w), wi = load(w + L), minus = -wi;
    GK_UNROLL for (int b = 0; b < B; ++b) {
      const V r = spread<T, TILE>(xr + b * inputs + c, all), i = spread<T, TILE>(xi + b * inputs + c, all);
      re[b] = fma(wr, r, re[b]), im[b] = fma(wr, i, im[b]);
      re[b] = fma(minus, i, re[b]), im[b] = fma(wi, r, im[b]);
    }
  }
  if (c < inputs) {
    const V wr = load(w), wi = load(w + L), minus = -wi;
    GK_UNROLL for (int b = 0; b < B; ++b) {
      const V r = spread_few<T, TILE>(xr + b * inputs + c, inputs - c, all);
      const V i = spread_few<T, TILE>(xi + b * inputs + c, inputs - c, all);
      re[b] = fma(wr, r, re[b]), im[b] = fma(wr, i, im[b]);
      re[b] = fma(minus, i, re[b]), im[b] = fma(wi, r, im[b]);
    }
  }
  GK_UNROLL for (int b = 0; b < B; ++b) {
    store(yr + b * outputs, fold<T, TILE, L / 2>(re[b], all));
    store(yi + b * outputs, fold<T, TILE, L / 2>(im[b], all));
  }
}

// What a store writes behind its tile is written over by the next image, or its next tile, later.
template <class T, int TILE>
static void product_tiles(const T* xr, const T* xi, int64_t images, int64_t inputs, const T* w, T* yr, T* yi,
                          int64_t outputs) {
  if constexpr (TILE <= Simd<T>::lanes) {
    constexpr int L = Simd<T>::lanes, Q = L / TILE, B = GK_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t step = (inputs + Q - 1) / Q * 2 * L, last = (outputs - 1) / TILE;
    for (int64_t b = 0; b < images;) {
      const int64_t at = b * inputs, to = b * outputs, together = b + B <= images ? B : 1;
      for (int64_t t = last; t >= 0; --t) {
        const auto tile = together == B ? product_tile<T, TILE, B> : product_tile<T, TILE, 1>;
        tile(xr + at, xi + at, inputs, w + t * step, yr + to + t * TILE, yi + to + t * TILE, outputs);
      }
      b += together;
    }
  }
}

template <class T>
static void products(const T* xr, const T* xi, int64_t images, int64_t inputs, const T* w, int tile, T* yr, T* yi,
                     int64_t outputs) {
  const auto run = tile == 16  ? product_tiles<T, 16>
                   : tile == 8 ? product_tiles<T, 8>
                   : tile == 4 ? product_tiles<T, 4>
                   : tile == 2 ? product_tiles<T, 2>
                               : product_tiles<T, 1>;
  run(xr, xi, images, inputs, w, yr, yi, outputs);
}

template <class T, int TILE, int... I>
static inline typename Simd<T>::type only_tile(typename Simd<T>::type v, Indices<I...>) {
  return GK_SHUFFLE(v, (typename Simd<T>::type{}), I < TILE ? I : Simd<T>::lanes + I);
}

// The numbers at `at` in images TILE numbers apart, each in TILE lanes.
template <class T, int TILE, int... I>
static inline typename Simd<T>::type spread_apart(const T* at, Indices<I...>) {
  if constexpr (TILE == Simd<T>::lanes) return broadcast(*at);
  const typename Simd<T>::type v = load(at);
  return GK_SHUFFLE(v, v, I / TILE * TILE);
}

// Rows of sums for B channels of q and R tiles of channels of p; groups of Q images are p_step and q_step apart.
template <class T, int TILE, int B, int R>
static inline void outer_tile(const T* pr, const T* pi, int64_t groups, int64_t p_step, const T* qr, const T* qi,
                              int64_t q_step, T sign, T* re_sums, T* im_sums, int64_t step) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  const typename Count<L>::type all;
  V re[R][B] = {}, im[R][B] = {};
  for (int64_t g = 0; g < groups; ++g) {
    V a[B], b[B];
    GK_UNROLL for (int j = 0; j < B; ++j) {
      a[j] = spread_apart<T, TILE>(qr + g * q_step + j, all), b[j] = spread_apart<T, TILE>(qi + g * q_step + j, all);
    }
    GK_UNROLL for (int k = 0; k < R; ++k) {
      const V r = load(pr + g * p_step + k * TILE), i = load(pi + g * p_step + k * TILE), minus = -r;
      GK_UNROLL for (int j = 0; j < B; ++j) {
        re[k][j] = fma(r, a[j], re[k][j]), im[k][j] = fma(i, a[j], im[k][j]);
        re[k][j] = fma(i, b[j], re[k][j]), im[k][j] = fma(minus, b[j], im[k][j]);
      }
    }
  }
  GK_UNROLL for (int k = 0; k < R; ++k) {
    GK_UNROLL for (int j = 0; j < B; ++j) {
      T *to_re = re_sums + j * step + k * TILE, *to_im = im_sums + j * step + k * TILE;
      const V r = only_tile<T, TILE>(fold<T, TILE, L / 2>(re[k][j], all), all);
      const V i = only_tile<T, TILE>(fold<T, TILE, L / 2>(im[k][j], all), all);
      store(to_re, load(to_re) + r);
      store(to_im, fma(broadcast(sign), i, load(to_im)));
    }
  }
}

// Up to TILE channels of images that are `channels` numbers apart in memory: where they are TILE apart, and zeros
// behind the last one up to a multiple of Q images.
template <class T, int TILE>
struct ImagesApart {
  static constexpr int L = Simd<T>::lanes, Q = L / TILE;
  const T *re, *im;
  T copy[2][L * TILE + L];

  ImagesApart(const T* from_re, const T* from_im, int64_t images, int64_t channels) : re(from_re), im(from_im) {
    if (Q == 1 || (channels == TILE && images % Q == 0)) return;
    const typename Simd<T>::type none = {};
    for (int64_t b = 0; b < images; ++b) {
      store(copy[0] + b * TILE, load(re + b * channels)), store(copy[1] + b * TILE, load(im + b * channels));
    }
    store(copy[0] + images * TILE, none), store(copy[1] + images * TILE, none);
    re = copy[0], im = copy[1];
  }
};

template <class T, int TILE>
static void outer_tiles(const T* pr, const T* pi, int64_t images, int64_t ps, const T* qr, const T* qi, int64_t qs,
                        T sign, T* re_sums, T* im_sums) {
  if constexpr (TILE <= Simd<T>::lanes) {
    constexpr int L = Simd<T>::lanes, Q = L / TILE, B = 4;
    const int64_t groups = (images + Q - 1) / Q, rows = (ps + TILE - 1) / TILE, step = rows * TILE;
    const int64_t p_step = Q > 1 ? L : ps, q_step = Q > 1 ? L : qs, q_tile = Q > 1 ? TILE : qs;
    const ImagesApart<T, TILE> p(pr, pi, images, ps);
    for (int64_t first = 0; first < qs; first += q_tile) {
      const ImagesApart<T, TILE> q(qr + first, qi + first, images, qs);
      const int64_t end = first + q_tile < qs ? first + q_tile : qs;
      const auto run = [&](auto tile, int64_t j, int64_t r) {
        tile(p.re + r * TILE, p.im + r * TILE, groups, p_step, q.re + j - first, q.im + j - first, q_step, sign,
             re_sums + j * step + r * TILE, im_sums + j * step + r * TILE, step);
      };
      int64_t j = first;
      for (; j + B <= end; j += B)
        for (int64_t r = 0; r < rows; ++r) run(outer_tile<T, TILE, B, 1>, j, r);
      for (; j < end; ++j) {
        int64_t r = 0;
        if constexpr (Q == 1)
          for (; r + 2 <= rows; r += 2) run(outer_tile<T, TILE, 1, 2>, j, r);
        for (; r < rows; ++r) run(outer_tile<T, TILE, 1, 1>, j, r);
      }
    }
  }
}

template <class T>
static void outer(const T* pr, const T* pi, int64_t images, int64_t ps, int tile, const T* qr, const T* qi, int64_t qs,
                  T sign, T* re_sums, T* im_sums) {
  const auto run = tile == 16  ? outer_tiles<T, 16>
                   : tile == 8 ? outer_tiles<T, 8>
                   : tile == 4 ? outer_tiles<T, 4>
                   : tile == 2 ? outer_tiles<T, 2>
                               : outer_tiles<T, 1>;
  run(pr, pi, images, ps, qr, qi, qs, sign, re_sums, im_sums);
}

#define GK_FFT_TABLE(T, name)    \
  extern const FftTable<T> name; \
  const FftTable<T> name = {transform<T>, settle, split<T>, join<T>, products<T>, outer<T>};
GK_FFT_TABLE(float, fft_float)
GK_FFT_TABLE(double, fft_double)
