// Pooling windows over (N, C, D, H, W), a thread for each cell of what is written. The adjoint of the mean gathers: a
// cell adds the outputs that see it, in the order in which the CPU would have scattered them. The adjoint of the
// maximum has only flat positions, so there a warp takes an image and 32 outputs at a time, and of those that name one
// cell the first lane adds all, in order, to what memory holds: in Compute<T>, rounded to T by another pass where that
// differs. No atomics: the same bits in every run, and those of the CPU.
#include <type_traits>

#include "kernels.hpp"
#include "launch.cuh"
#include "memory.hpp"
#include "views.cuh"

namespace gk::cuda {
namespace {

constexpr int kThreads = 256;

struct Axis {
  int X, K, P, stride, dilation, pad_lo, pad_hi;

  __device__ int start(int p) const { return p * stride - pad_lo; }
  // taps [first, last) of output p that lie in [lo, hi)
  __device__ int first_tap(int p, int lo) const {
    const int short_of = lo - start(p);
    const int k = short_of <= 0 ? 0 : (short_of + dilation - 1) / dilation;
    return k < K ? k : K;
  }
  __device__ int last_tap(int p, int hi) const {
    const int room = hi - start(p), k = room <= 0 ? 0 : (room + dilation - 1) / dilation;
    return k < K ? k : K;
  }
  __device__ int inside(int p) const {
    const int n = last_tap(p, X) - first_tap(p, 0);
    return n > 0 ? n : 0;
  }
  __device__ int counted(int p, bool padding) const { return padding ? last_tap(p, X + pad_hi) : inside(p); }
  // the output that sees cell x through tap k, or -1
  __device__ int output(int x, int k) const {
    const int at = x + pad_lo - k * dilation;
    if (at < 0 || at % stride != 0) return -1;
    return at / stride < P ? at / stride : -1;
  }
};

struct Window {
  Axis d, h, w;
  bool include_padding;
  double override_by;

  // A window that sees no cell has the value 0, whatever the divisor; torch counts cells of the padded image at most.
  __device__ double divisor(int pd, int ph, int pw) const {
    if (override_by != 0.0) return override_by;
    const double count = static_cast<double>(d.counted(pd, include_padding)) *
                         static_cast<double>(h.counted(ph, include_padding)) *
                         static_cast<double>(w.counted(pw, include_padding));
    return count == 0.0 ? 1.0 : count;
  }
};

Window window(const WindowGeometry& g) {
  const auto axis = [&](int i) {
    const auto n = [](int64_t v) { return static_cast<int>(v); };
    return Axis{n(g.x[i]), n(g.kernel[i]), n(g.y[i]), n(g.stride[i]), n(g.dilation[i]), n(g.pad_lo[i]), n(g.pad_hi[i])};
  };
  return {axis(0), axis(1), axis(2), g.count_include_pad != 0, static_cast<double>(g.divisor_override)};
}

// A strided (N, C, D, H, W) array in device code.
template <class T>
struct Volume {
  T* data;
  int64_t stride[5];
  __device__ T* image(uint32_t n, uint32_t c) const { return data + n * stride[0] + c * stride[1]; }
  __device__ int64_t cell(int d, int h, int w) const { return d * stride[2] + h * stride[3] + w * stride[4]; }
};
template <class T>
Volume<T> volume(const View<T>& any) {
  const View<T> v = any.volume();
  Volume<T> result{v.data, {}};
  for (int i = 0; i < 5; ++i) result.stride[i] = v.stride[i];
  return result;
}

// Thread number -> (n, c, d, h, w), row-major.
struct Cells {
  uint32_t count;
  Divider c, d, h, w;

  template <class T>
  explicit Cells(const View<T>& any) {
    const View<T> v = any.volume();
    GK_CHECK(v.size() < kMaxIndex, "a window kernel over 2^31 cells or more");
    count = static_cast<uint32_t>(v.size());
    if (count == 0) return;
    c = Divider(v.shape[1]), d = Divider(v.shape[2]), h = Divider(v.shape[3]), w = Divider(v.shape[4]);
  }
  unsigned blocks() const { return blocks_for(count, kThreads); }
};
struct Place {
  uint32_t n, c;
  int d, h, w;
};
__device__ __forceinline__ Place place(const Cells& cells, uint32_t i) {
  uint32_t n, c, d, h, w;
  n = cells.c.split(cells.d.split(cells.h.split(cells.w.split(i, &w), &h), &d), &c);
  return {n, c, static_cast<int>(d), static_cast<int>(h), static_cast<int>(w)};
}

// Flat position in the D*H*W image -> offset in elements.
template <class T>
struct Flat {
  T* data;
  int64_t n, c, d, h, w;
  Divider H, W;
  __device__ int64_t cell(uint32_t flat) const {
    uint32_t ih, iw;
    const uint32_t id = H.split(W.split(flat, &iw), &ih);
    return id * d + ih * h + iw * w;
  }
};
template <class T>
Flat<T> flat(const View<T>& any) {
  const View<T> v = any.volume();
  return {v.data,      v.stride[0], v.stride[1],         v.stride[2],
          v.stride[3], v.stride[4], Divider(v.shape[3]), Divider(v.shape[4])};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    max_window_kernel(Window g, Cells cells, Volume<const T> x, Volume<T> y, Volume<int64_t> index) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= cells.count) return;
  const Place p = place(cells, i);
  const int d0 = g.d.first_tap(p.d, 0), h0 = g.h.first_tap(p.h, 0), w0 = g.w.first_tap(p.w, 0);
  const int d1 = g.d.last_tap(p.d, g.d.X), h1 = g.h.last_tap(p.h, g.h.X), w1 = g.w.last_tap(p.w, g.w.X);
  const T* image = x.image(p.n, p.c);
  T best = static_cast<T>(-HUGE_VAL);
  int at_d = g.d.start(p.d) + d0 * g.d.dilation, at_h = g.h.start(p.h) + h0 * g.h.dilation,
      at_w = g.w.start(p.w) + w0 * g.w.dilation;
  for (int kd = d0; kd < d1; ++kd)
    for (int kh = h0; kh < h1; ++kh)
      for (int kw = w0; kw < w1; ++kw) {
        const int d = g.d.start(p.d) + kd * g.d.dilation, h = g.h.start(p.h) + kh * g.h.dilation,
                  w = g.w.start(p.w) + kw * g.w.dilation;
        const T v = image[x.cell(d, h, w)];
        if (v > best || v != v) best = v, at_d = d, at_h = h, at_w = w;
      }
  y.image(p.n, p.c)[y.cell(p.d, p.h, p.w)] = best;
  index.image(p.n, p.c)[index.cell(p.d, p.h, p.w)] = (static_cast<int64_t>(at_d) * g.h.X + at_h) * g.w.X + at_w;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    average_window_kernel(Window g, Cells cells, Volume<const T> x, Volume<T> y) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= cells.count) return;
  const Place p = place(cells, i);
  const int w0 = g.w.first_tap(p.w, 0), w1 = g.w.last_tap(p.w, g.w.X);
  const T* image = x.image(p.n, p.c);
  double total = 0;
  for (int kd = g.d.first_tap(p.d, 0); kd < g.d.last_tap(p.d, g.d.X); ++kd)
    for (int kh = g.h.first_tap(p.h, 0); kh < g.h.last_tap(p.h, g.h.X); ++kh)
      for (int kw = w0; kw < w1; ++kw)
        total +=
            static_cast<double>(image[x.cell(g.d.start(p.d) + kd * g.d.dilation, g.h.start(p.h) + kh * g.h.dilation,
                                             g.w.start(p.w) + kw * g.w.dilation)]);
  y.image(p.n, p.c)[y.cell(p.d, p.h, p.w)] = static_cast<T>(total / g.divisor(p.d, p.h, p.w));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    spread_window_kernel(Window g, Cells cells, Volume<const T> y, Volume<T> x) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= cells.count) return;
  const Place at = place(cells, i);
  const T* image = y.image(at.n, at.c);
  Compute<T> total = 0;
  for (int kd = g.d.K - 1; kd >= 0; --kd) {  // outputs in ascending order along d and h
    const int pd = g.d.output(at.d, kd);
    if (pd < 0) continue;
    for (int kh = g.h.K - 1; kh >= 0; --kh) {
      const int ph = g.h.output(at.h, kh);
      if (ph < 0) continue;
      for (int kw = 0; kw < g.w.K; ++kw) {
        const int pw = g.w.output(at.w, kw);
        if (pw < 0) continue;
        total += static_cast<Compute<T>>(static_cast<double>(image[y.cell(pd, ph, pw)]) / g.divisor(pd, ph, pw));
      }
    }
  }
  x.image(at.n, at.c)[x.cell(at.d, at.h, at.w)] = static_cast<T>(total);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_window_kernel(Cells cells, Flat<const T> x, Volume<const int64_t> index, Volume<T> y) {
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= cells.count) return;
  const Place p = place(cells, i);
  const auto from = static_cast<uint32_t>(index.image(p.n, p.c)[index.cell(p.d, p.h, p.w)]);
  y.image(p.n, p.c)[y.cell(p.d, p.h, p.w)] = x.data[p.n * x.n + p.c * x.c + x.cell(from)];
}

// x is zero before.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scatter_window_kernel(uint32_t images, Divider channels, uint32_t outputs, Flat<const T> y,
                          Flat<const int64_t> index, Flat<Compute<T>> x) {
  using C = Compute<T>;
  GK_SHARED(C[kThreads], values);
  const uint32_t image = blockIdx.x * (kThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (image >= images) return;  // a whole warp
  const uint32_t lane = threadIdx.x % kWarpSize, first_lane = threadIdx.x - lane;
  uint32_t c;
  const uint32_t n = channels.split(image, &c);
  const T* from = y.data + n * y.n + c * y.c;
  const int64_t* at = index.data + n * index.n + c * index.c;
  C* to = x.data + n * x.n + c * x.c;
  for (uint32_t base = 0; base < outputs; base += kWarpSize) {
    const uint32_t p = base + lane;
    const bool valid = p < outputs;
    const int32_t cell = valid ? static_cast<int32_t>(at[index.cell(p)]) : -1;
    values[threadIdx.x] = valid ? static_cast<C>(from[y.cell(p)]) : C(0);
    __syncwarp();
    uint32_t same = __match_any_sync(kFullMask, cell);
    if (valid && __ffs(static_cast<int>(same)) - 1 == static_cast<int>(lane)) {
      C total = to[x.cell(static_cast<uint32_t>(cell))];
      for (; same != 0; same &= same - 1) total += values[first_lane + __ffs(static_cast<int>(same)) - 1];
      to[x.cell(static_cast<uint32_t>(cell))] = total;
    }
    __syncwarp();  // before the next values, and before another lane reads that cell
  }
}

// The sums in x of what y adds to each cell.
template <class T>
void scatter_sums(const View<const T>& y, const View<const int64_t>& index, const View<Compute<T>>& x) {
  fill(x, 0.0);
  if (y.size() == 0) return;
  const View<const T> v = y.volume();
  const int64_t images = v.shape[0] * v.shape[1], outputs = v.shape[2] * v.shape[3] * v.shape[4];
  launch({blocks_for(images, kThreads / kWarpSize), kThreads}, scatter_window_kernel<T>, static_cast<uint32_t>(images),
         Divider(v.shape[1]), static_cast<uint32_t>(outputs), flat(y), flat(index), flat(x));
}

// An array of x's shape without gaps.
template <class C, class T>
View<C> dense_like(const View<T>& x, C* data) {
  View<C> dense;
  dense.data = data, dense.rank = x.rank;
  int64_t step = 1;
  for (int i = x.rank - 1; i >= 0; step *= x.shape[i], --i) dense.shape[i] = x.shape[i], dense.stride[i] = step;
  return dense;
}

}  // namespace

template <class T>
void max_window(View<const T> x, View<T> y, View<int64_t> index, const WindowGeometry& g) {
  const Cells cells(y);
  launch({cells.blocks(), kThreads}, max_window_kernel<T>, window(g), cells, volume(x), volume(y), volume(index));
}

template <class T>
void gather_window(View<const T> x, View<const int64_t> index, View<T> y) {
  const Cells cells(y);
  if (cells.count == 0) return;
  launch({cells.blocks(), kThreads}, gather_window_kernel<T>, cells, flat(x), volume(index), volume(y));
}

template <class T>
void scatter_window(View<const T> y, View<const int64_t> index, View<T> x) {
  using C = Compute<T>;
  if constexpr (std::is_same_v<C, T>) {
    scatter_sums(y, index, x);
  } else {
    const Scratch<C> sums(x.size());
    scatter_sums(y, index, dense_like(x, sums.data()));
    cast(dense_like<const C>(x, sums.data()), x);
  }
}

template <class T>
void average_window(View<const T> x, View<T> y, const WindowGeometry& g) {
  const Cells cells(y);
  launch({cells.blocks(), kThreads}, average_window_kernel<T>, window(g), cells, volume(x), volume(y));
}

template <class T>
void spread_window(View<const T> y, View<T> x, const WindowGeometry& g) {
  const Cells cells(x);
  launch({cells.blocks(), kThreads}, spread_window_kernel<T>, window(g), cells, volume(y), volume(x));
}

#define GK_INSTANTIATE(T)                                                                    \
  template void max_window<T>(View<const T>, View<T>, View<int64_t>, const WindowGeometry&); \
  template void gather_window<T>(View<const T>, View<const int64_t>, View<T>);               \
  template void scatter_window<T>(View<const T>, View<const int64_t>, View<T>);              \
  template void average_window<T>(View<const T>, View<T>, const WindowGeometry&);            \
  template void spread_window<T>(View<const T>, View<T>, const WindowGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
