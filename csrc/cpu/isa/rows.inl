// Loops of the convolution with channels in the lanes: R rows (output positions) times P vectors of output channels,
// one broadcast input value at a time, or N of them side by side where N parts of the sum share a vector.

template <class T, int R, int P, int N = 1>
static void row_tile(const T* x, const int64_t* at, const TapOffset* tap, int64_t taps, int64_t run, const T* w, T* y,
                     const int64_t* to, bool accumulate) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V sum[R][P];
  GK_UNROLL for (int r = 0; r < R; ++r) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[r][p] = accumulate ? load(y + to[r] + p * L) : V{};
  }
  for (int64_t t = 0; t < taps; ++t) {
    const T* weight = w + tap[t].weight;
    const T* rows[R];
    GK_UNROLL for (int r = 0; r < R; ++r) rows[r] = x + at[r] + tap[t].cell;
    for (int64_t c = 0; c < run; ++c, weight += P * L) {
      V ws[P];
      GK_UNROLL for (int p = 0; p < P; ++p) {
        ws[p] = load(weight + p * L);
        GK_IN_REGISTER(ws[p]);
      }
      GK_UNROLL for (int r = 0; r < R; ++r) {
        V xs = broadcast_parts<T, N>(rows[r] + c * N);
        if constexpr (P > 1) GK_IN_REGISTER(xs);
        GK_UNROLL for (int p = 0; p < P; ++p) sum[r][p] = fma(xs, ws[p], sum[r][p]);
      }
    }
  }
  GK_UNROLL for (int r = 0; r < R; ++r) { GK_UNROLL for (int p = 0; p < P; ++p) store(y + to[r] + p * L, sum[r][p]); }
}

template <class T>
static void pick_cells(const T* src, const int64_t* cell, int64_t first, int64_t last, int64_t count, T* dst,
                       int64_t stride) {
  constexpr int L = Simd<T>::lanes;
  for (int64_t i = 0; i < count; ++i) {
    const bool inside = cell[i] >= first && cell[i] < last;
    store(dst + i * stride, inside ? load(src + (cell[i] - first) * L) : typename Simd<T>::type{});
  }
}
