// Register-blocked loops of the direct convolution: O output channels times P positions (or taps) of accumulators,
// one broadcast weight at a time. With 8 x 3 accumulators a tap costs 24 multiply-adds and 11 loads, so the
// multipliers are the limit, not the loads. Matrix products use the same tile with "taps" for the inner extent.

#define GK_UNROLL _Pragma("GCC unroll 16")

template <class T, int O, int P>
static void tile(const T* x, int64_t channels, int64_t channel, const int64_t* offset, int64_t taps, const T* w, T* y,
                 int64_t y_stride, bool accumulate) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V sum[O][P];
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = accumulate ? load(y + o * y_stride + p * L) : V{};
  }
  for (int64_t c = 0; c < channels; ++c, x += channel) {
    for (int64_t t = 0; t < taps; ++t, w += O) {
      const T* at = x + offset[t];
      V xs[P];
      GK_UNROLL for (int p = 0; p < P; ++p) xs[p] = load(at + p * L);
      GK_UNROLL for (int o = 0; o < O; ++o) {
        const V weight = broadcast(w[o]);
        GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = fma(xs[p], weight, sum[o][p]);
      }
    }
  }
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) store(y + o * y_stride + p * L, sum[o][p]);
  }
}

template <class T, int O, int P>
static void weight_tile(const T* x, const int64_t* offset, int64_t x_row, const T* y, int64_t y_row, int64_t rows,
                        int64_t width, T* w) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V sum[O][P];
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = load(w + (p * O + o) * L);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const T* xs[P];
    GK_UNROLL for (int p = 0; p < P; ++p) xs[p] = x + r * x_row + offset[p];
    const T* at = y + r * y_row;
    for (int64_t i = 0; i < width; ++i, at += O * L) {
      V xv[P];
      GK_UNROLL for (int p = 0; p < P; ++p) xv[p] = load(xs[p] + i * L);
      GK_UNROLL for (int o = 0; o < O; ++o) {
        const V yv = load(at + o * L);
        GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = fma(xv[p], yv, sum[o][p]);
      }
    }
  }
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) store(w + (p * O + o) * L, sum[o][p]);
  }
}

// clang-format off
#if GK_VECTOR_BYTES == 64  // 32 registers: up to 24 accumulators
#define GK_TILES(t, T)                                                                                    \
  {{}, {nullptr, t<T, 1, 1>, t<T, 1, 2>, t<T, 1, 3>, t<T, 1, 4>, t<T, 1, 5>, t<T, 1, 6>, t<T, 1, 7>, t<T, 1, 8>}, \
   {nullptr, t<T, 2, 1>, t<T, 2, 2>, t<T, 2, 3>, t<T, 2, 4>, t<T, 2, 5>, t<T, 2, 6>, t<T, 2, 7>, t<T, 2, 8>}, {}, \
   {nullptr, t<T, 4, 1>, t<T, 4, 2>, t<T, 4, 3>, t<T, 4, 4>, t<T, 4, 5>, t<T, 4, 6>}, {},                  \
   {nullptr, t<T, 6, 1>, t<T, 6, 2>, t<T, 6, 3>, t<T, 6, 4>}, {},                                          \
   {nullptr, t<T, 8, 1>, t<T, 8, 2>, t<T, 8, 3>}}
#define GK_TILE_LIMITS {0, 8, 8, 0, 6, 0, 4, 0, 3}
#define GK_WIDE_OUTPUTS 8
#else  // 16 registers: up to 12 accumulators
#define GK_TILES(t, T)                                                                                    \
  {{}, {nullptr, t<T, 1, 1>, t<T, 1, 2>, t<T, 1, 3>, t<T, 1, 4>, t<T, 1, 5>, t<T, 1, 6>, t<T, 1, 7>, t<T, 1, 8>}, \
   {nullptr, t<T, 2, 1>, t<T, 2, 2>, t<T, 2, 3>, t<T, 2, 4>, t<T, 2, 5>}, {},                              \
   {nullptr, t<T, 4, 1>, t<T, 4, 2>, t<T, 4, 3>}, {},                                                      \
   {nullptr, t<T, 6, 1>, t<T, 6, 2>}, {}, {}}
#define GK_TILE_LIMITS {0, 8, 5, 0, 3, 0, 2, 0, 0}
#define GK_WIDE_OUTPUTS 4
#endif

#define GK_CONV_TABLE(T, name)                                                                            \
  extern const ConvTable<T> name;                                                                         \
  const ConvTable<T> name = {Simd<T>::lanes, GK_WIDE_OUTPUTS, GK_TILE_LIMITS, GK_TILES(tile, T),           \
                             GK_TILES(weight_tile, T), interleave<T>, deinterleave<T>, add_lanes<T>};
// clang-format on
GK_CONV_TABLE(float, conv_float)
GK_CONV_TABLE(double, conv_double)
