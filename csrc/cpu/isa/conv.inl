// Register-blocked loops of the direct convolution: O output channels times P positions (or taps) of accumulators,
// one broadcast weight at a time. With 8 x 3 accumulators a tap costs 24 multiply-adds and 11 loads, so the
// multipliers are the limit, not the loads. Matrix products use the same tile with "taps" for the inner extent.

#define GK_UNROLL _Pragma("GCC unroll 16")

// Keeps a vector in a register: compilers fold a load into each of its uses, and then the loads are the limit.
#if defined(__x86_64__)
#define GK_IN_REGISTER(v) __asm__("" : "+x"(v))
#if GK_VECTOR_BYTES == 64
#undef GK_IN_REGISTER
#define GK_IN_REGISTER(v) __asm__("" : "+v"(v))
#endif
#else
#define GK_IN_REGISTER(v)
#endif

template <class T, int O, int P>
static void tile(const T* x, int64_t x_channel, const T* w, int64_t w_channel, int64_t channels, const TapOffset* tap,
                 int64_t taps, T* y, int64_t y_stride, int64_t y_position, bool accumulate) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V sum[O][P];
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = accumulate ? load(y + o * y_stride + p * y_position) : V{};
  }
  for (int64_t c = 0; c < channels; ++c, x += x_channel, w += w_channel) {
    for (int64_t t = 0; t < taps; ++t) {
      const T* at = x + tap[t].cell;
      const T* weight = w + tap[t].weight;
      if constexpr (O < P) {  // the weights stay in registers, positions pass by
        V ws[O];
        GK_UNROLL for (int o = 0; o < O; ++o) ws[o] = broadcast(weight[o]);
        GK_UNROLL for (int p = 0; p < P; ++p) {
          const V xs = load(at + p * L);
          GK_UNROLL for (int o = 0; o < O; ++o) sum[o][p] = fma(xs, ws[o], sum[o][p]);
        }
      } else {
        V xs[P];
        GK_UNROLL for (int p = 0; p < P; ++p) xs[p] = load(at + p * L);
        GK_UNROLL for (int o = 0; o < O; ++o) {
          const V ws = broadcast(weight[o]);
          GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = fma(xs[p], ws, sum[o][p]);
        }
      }
    }
  }
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) store(y + o * y_stride + p * y_position, sum[o][p]);
  }
}

template <class T, int O, int P>
static void weight_tile(const T* x, int64_t x_row, const T* y, int64_t y_row, int64_t rows, int64_t width,
                        const TapOffset* tap, T* w) {
  constexpr int L = Simd<T>::lanes;
  typedef typename Simd<T>::type V;
  V sum[O][P];
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = load(w + tap[p].weight + o * L);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const T* xs[P];
    GK_UNROLL for (int p = 0; p < P; ++p) xs[p] = x + r * x_row + tap[p].cell;
    const T* at = y + r * y_row;
    for (int64_t i = 0; i < width; ++i, at += O * L) {
      if constexpr (O < P) {
        V ys[O];
        GK_UNROLL for (int o = 0; o < O; ++o) ys[o] = load(at + o * L);
        GK_UNROLL for (int p = 0; p < P; ++p) {
          V xv = load(xs[p] + i * L);
          if constexpr (O > 1) GK_IN_REGISTER(xv);
          GK_UNROLL for (int o = 0; o < O; ++o) sum[o][p] = fma(xv, ys[o], sum[o][p]);
        }
      } else {
        V xv[P];
        GK_UNROLL for (int p = 0; p < P; ++p) xv[p] = load(xs[p] + i * L);
        GK_UNROLL for (int o = 0; o < O; ++o) {
          V yv = load(at + o * L);
          if constexpr (P > 1) GK_IN_REGISTER(yv);
          GK_UNROLL for (int p = 0; p < P; ++p) sum[o][p] = fma(xv[p], yv, sum[o][p]);
        }
      }
    }
  }
  GK_UNROLL for (int o = 0; o < O; ++o) {
    GK_UNROLL for (int p = 0; p < P; ++p) store(w + tap[p].weight + o * L, sum[o][p]);
  }
}

#include "rows.inl"

// clang-format off
#define GK_1(t, T, O) t<T, O, 1>
#define GK_2(t, T, O) GK_1(t, T, O), t<T, O, 2>
#define GK_3(t, T, O) GK_2(t, T, O), t<T, O, 3>
#define GK_4(t, T, O) GK_3(t, T, O), t<T, O, 4>
#define GK_6(t, T, O) GK_4(t, T, O), t<T, O, 5>, t<T, O, 6>
#define GK_12(t, T, O) GK_6(t, T, O), t<T, O, 7>, t<T, O, 8>, t<T, O, 9>, t<T, O, 10>, t<T, O, 11>, t<T, O, 12>
#define GK_16(t, T, O) GK_12(t, T, O), t<T, O, 13>, t<T, O, 14>, t<T, O, 15>, t<T, O, 16>
#if GK_VECTOR_BYTES == 64  // 32 registers: up to 24 accumulators
#define GK_TILES(t, T) {{}, {nullptr, GK_16(t, T, 1)}, {nullptr, GK_12(t, T, 2)}, {}, {nullptr, GK_6(t, T, 4)}, {}, \
                        {nullptr, GK_4(t, T, 6)}, {}, {nullptr, GK_3(t, T, 8)}}
#define GK_TILE_LIMITS {0, 16, 12, 0, 6, 0, 4, 0, 3}
#define GK_WIDE_OUTPUTS 8
#define GK_ROWS 8
#else  // 16 registers: up to 12 accumulators
#define GK_TILES(t, T) {{}, {nullptr, GK_12(t, T, 1)}, {nullptr, GK_6(t, T, 2)}, {}, {nullptr, GK_3(t, T, 4)}, {}, \
                        {nullptr, GK_2(t, T, 6)}, {}, {}}
#define GK_TILE_LIMITS {0, 12, 6, 0, 3, 0, 2, 0, 0}
#define GK_WIDE_OUTPUTS 4
#define GK_ROWS 4
#endif

#if GK_VECTOR_BYTES > 16
#define GK_PART_TILES(T) {nullptr, nullptr, row_tile<T, GK_ROWS, 1, 2>, nullptr, row_tile<T, GK_ROWS, 1, 4>}
#else
#define GK_PART_TILES(T) {}
#endif

#define GK_CONV_TABLE(T, name)                                                                                     \
  extern const ConvTable<T> name;                                                                                  \
  const ConvTable<T> name = {                                                                                      \
      Simd<T>::lanes, GK_WIDE_OUTPUTS, GK_TILE_LIMITS, GK_TILES(tile, T), GK_TILES(weight_tile, T), GK_ROWS,       \
      {nullptr, row_tile<T, GK_ROWS, 1>, row_tile<T, GK_ROWS, 2>, row_tile<T, GK_ROWS, 3>}, GK_PART_TILES(T),      \
      pick_cells<T>, interleave<T>, deinterleave<T>, copy_rows<T>, add_lanes<T>};
// clang-format on
GK_CONV_TABLE(float, conv_float)
GK_CONV_TABLE(double, conv_double)
