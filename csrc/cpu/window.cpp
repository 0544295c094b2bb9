// Pooling windows over (N, C, D, H, W): maximum and mean with their adjoints. Forward kernels cut the output into rows,
// adjoints into whole images, so every cell is written by one task in a fixed order.
#include <algorithm>
#include <limits>
#include <vector>

#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

// Where tap k of output p falls along one axis.
struct Axis {
  int64_t X, K, P, stride, dilation, pad_lo, pad_hi;

  Axis(const WindowGeometry& g, int i)
      : X(g.x[i]),
        K(g.kernel[i]),
        P(g.y[i]),
        stride(g.stride[i]),
        dilation(g.dilation[i]),
        pad_lo(g.pad_lo[i]),
        pad_hi(g.pad_hi[i]) {}

  int64_t start(int64_t p) const { return p * stride - pad_lo; }
  // taps [first, last) of output p that lie in [lo, hi)
  int64_t first_tap(int64_t p, int64_t lo) const {
    return std::min(K, std::max<int64_t>(0, (lo - start(p) + dilation - 1) / dilation));
  }
  int64_t last_tap(int64_t p, int64_t hi) const {
    const int64_t room = hi - start(p);
    return room <= 0 ? 0 : std::min(K, (room + dilation - 1) / dilation);
  }
  int64_t inside(int64_t p) const { return std::max<int64_t>(0, last_tap(p, X) - first_tap(p, 0)); }
  int64_t inside_padded(int64_t p) const { return last_tap(p, X + pad_hi); }
  // outputs [first, last) for which tap k lies inside the image
  int64_t first_output(int64_t k) const {
    return std::min(P, std::max<int64_t>(0, (pad_lo - k * dilation + stride - 1) / stride));
  }
  int64_t last_output(int64_t k) const {
    const int64_t room = X + pad_lo - k * dilation;
    return room <= 0 ? 0 : std::min(P, (room + stride - 1) / stride);
  }
};

struct Window {
  Axis d, h, w;
  explicit Window(const WindowGeometry& g) : d(g, 0), h(g, 1), w(g, 2) {}

  // Calls body(kd, kh, row) for the rows of the image that output row (pd, ph) sees; `row` points at cell w = 0.
  template <class T, class F>
  void rows(T* image, const int64_t* stride, int64_t pd, int64_t ph, F&& body) const {
    for (int64_t kd = d.first_tap(pd, 0); kd < d.last_tap(pd, d.X); ++kd)
      for (int64_t kh = h.first_tap(ph, 0); kh < h.last_tap(ph, h.X); ++kh)
        body(kd, kh, image + (d.start(pd) + kd * d.dilation) * stride[2] + (h.start(ph) + kh * h.dilation) * stride[3]);
  }
};

// body(n, c, pd, ph) for every output row, or image(n, c) for every image, in parallel; `cost` in elements.
template <class F>
void for_output_rows(const WindowGeometry& g, int64_t cost, F&& body) {
  const int64_t rows = g.batch * g.channels * g.y[0] * g.y[1];
  parallel_chunks(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t ph = r % g.y[1], pd = r / g.y[1] % g.y[0], image = r / (g.y[1] * g.y[0]);
      body(image / g.channels, image % g.channels, pd, ph);
    }
  });
}

template <class F>
void for_images(int64_t N, int64_t C, int64_t cost, F&& body) {
  parallel_chunks(N * C, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i / C, i % C);
  });
}

template <class T>
T* image_of(const View<T>& v, int64_t n, int64_t c) {
  return v.data + n * v.stride[0] + c * v.stride[1];
}

// 1 / divisor of the mean at every output, as three factors; torch counts cells inside the padded image at most.
struct Divisors {
  std::vector<double> d, h, w;
  double override_by;

  explicit Divisors(const WindowGeometry& g) : override_by(static_cast<double>(g.divisor_override)) {
    const Window window(g);
    fill(window.d, g.count_include_pad, d);
    fill(window.h, g.count_include_pad, h);
    fill(window.w, g.count_include_pad, w);
  }
  static void fill(const Axis& axis, bool include_pad, std::vector<double>& counts) {
    counts.resize(static_cast<size_t>(axis.P));
    for (int64_t p = 0; p < axis.P; ++p)
      counts[p] = static_cast<double>(include_pad ? axis.inside_padded(p) : axis.inside(p));
  }
  // A window that sees no cell has the value 0, whatever the divisor.
  double at(int64_t pd, int64_t ph, int64_t pw) const {
    const double count = override_by != 0.0 ? override_by : d[pd] * h[ph] * w[pw];
    return count == 0.0 ? 1.0 : count;
  }
};

// Narrow windows side by side on planes without gaps: sums and shares pass through whole planes, not tap by tap.
template <class T>
bool side_by_side(const WindowGeometry& g, const View<T>& x) {
  for (int i = 0; i < 3; ++i)
    if (g.stride[i] != g.kernel[i] || g.dilation[i] != 1 || g.pad_lo[i] != 0 || g.y[i] * g.kernel[i] > g.x[i])
      return false;
  return g.kernel[2] <= g.y[2] && x.stride[4] == 1 && x.stride[3] == g.x[2];
}

template <class T>
void average_planes(const View<const T>& x, const View<T>& y, const WindowGeometry& g) {
  const Divisors divisors(g);
  const auto& table = elements<T>();
  const int64_t W = g.x[2], KH = g.kernel[1], KW = g.kernel[2], cells = g.y[1] * KH * W;
  for_images(g.batch, g.channels, g.x[0] * g.x[1] * W, [&](int64_t n, int64_t c) {
    std::vector<double> plane(static_cast<size_t>(cells));
    for (int64_t pd = 0; pd < g.y[0]; ++pd) {
      std::fill(plane.begin(), plane.end(), 0.0);
      for (int64_t kd = 0; kd < g.kernel[0]; ++kd)
        table.add_tap(image_of(x, n, c) + (pd * g.kernel[0] + kd) * x.stride[2], 1, cells, plane.data());
      for (int64_t ph = 0; ph < g.y[1]; ++ph) {
        T* out = image_of(y, n, c) + pd * y.stride[2] + ph * y.stride[3];
        for (int64_t pw = 0; pw < g.y[2]; ++pw) {
          double total = 0.0;
          for (int64_t kh = 0; kh < KH; ++kh)
            for (int64_t kw = 0; kw < KW; ++kw) total += plane[(ph * KH + kh) * W + pw * KW + kw];
          out[pw * y.stride[4]] = static_cast<T>(total / divisors.at(pd, ph, pw));
        }
      }
    }
  });
}

template <class T>
void spread_planes(const View<const T>& y, const View<T>& x, const WindowGeometry& g) {
  const Divisors divisors(g);
  const int64_t W = g.x[2], KD = g.kernel[0], KH = g.kernel[1], KW = g.kernel[2];
  for_images(g.batch, g.channels, g.x[0] * g.x[1] * W, [&](int64_t n, int64_t c) {
    std::vector<T> plane(static_cast<size_t>(g.x[1] * W));  // beyond the last windows it stays zero
    for (int64_t d = 0; d < g.x[0]; ++d) {
      const int64_t pd = d / KD;
      if (pd == g.y[0]) std::fill(plane.begin(), plane.end(), T(0));
      for (int64_t ph = 0; d % KD == 0 && pd < g.y[0] && ph < g.y[1]; ++ph) {
        const T* from = image_of(y, n, c) + pd * y.stride[2] + ph * y.stride[3];
        T* row = plane.data() + ph * KH * W;
        for (int64_t pw = 0; pw < g.y[2]; ++pw) {
          const T share = static_cast<T>(static_cast<double>(from[pw * y.stride[4]]) / divisors.at(pd, ph, pw));
          for (int64_t kw = 0; kw < KW; ++kw) row[pw * KW + kw] = share;
        }
        for (int64_t kh = 1; kh < KH; ++kh) std::copy_n(row, W, row + kh * W);
      }
      std::copy(plane.begin(), plane.end(), image_of(x, n, c) + d * x.stride[2]);
    }
  });
}

// Flat position in the D*H*W image -> offset in elements.
template <class T>
struct FlatCells {
  int64_t H, W, stride[3];
  bool contiguous;

  explicit FlatCells(const View<T>& v) : H(v.shape[3]), W(v.shape[4]), stride{v.stride[2], v.stride[3], v.stride[4]} {
    contiguous = (W == 1 || stride[2] == 1) && (H == 1 || stride[1] == W) && (v.shape[2] == 1 || stride[0] == H * W);
  }
  int64_t operator()(int64_t flat) const {
    if (contiguous) return flat;
    return flat / (H * W) * stride[0] + flat / W % H * stride[1] + flat % W * stride[2];
  }
};

}  // namespace

template <class T>
void max_window(View<const T> x_any, View<T> y_any, View<int64_t> index_any, const WindowGeometry& g) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  const auto index = index_any.volume();
  const Window window(g);
  const auto& table = elements<T>();
  const int64_t PW = g.y[2];
  std::vector<int64_t> tap_offset;  // of a tap in the flat image, relative to the first one
  for (int64_t kd = 0; kd < g.kernel[0]; ++kd)
    for (int64_t kh = 0; kh < g.kernel[1]; ++kh)
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw)
        tap_offset.push_back((kd * g.dilation[0] * g.x[1] + kh * g.dilation[1]) * g.x[2] + kw * g.dilation[2]);

  for_output_rows(g, PW * g.kernel[0] * g.kernel[1] * g.kernel[2], [&](int64_t n, int64_t c, int64_t pd, int64_t ph) {
    thread_local std::vector<T> best;
    thread_local std::vector<int32_t> taps;
    best.assign(static_cast<size_t>(PW), -std::numeric_limits<T>::infinity());
    taps.resize(static_cast<size_t>(PW));
    const int64_t first_row = window.d.first_tap(pd, 0) * g.kernel[1] + window.h.first_tap(ph, 0);
    for (int64_t pw = 0; pw < PW; ++pw)
      taps[pw] = static_cast<int32_t>(first_row * g.kernel[2] + window.w.first_tap(pw, 0));
    window.rows(image_of(x, n, c), x.stride, pd, ph, [&](int64_t kd, int64_t kh, const T* row) {
      for (int64_t kw = 0; kw < g.kernel[2]; ++kw) {
        const int64_t lo = window.w.first_output(kw), hi = window.w.last_output(kw);
        if (lo >= hi) continue;
        const auto tap = static_cast<int32_t>((kd * g.kernel[1] + kh) * g.kernel[2] + kw);
        table.max_tap(row + (window.w.start(lo) + kw * g.dilation[2]) * x.stride[4], g.stride[2] * x.stride[4], hi - lo,
                      tap, best.data() + lo, taps.data() + lo);
      }
    });
    const int64_t corner = (window.d.start(pd) * g.x[1] + window.h.start(ph)) * g.x[2];
    T* out = image_of(y, n, c) + pd * y.stride[2] + ph * y.stride[3];
    int64_t* at = image_of(index, n, c) + pd * index.stride[2] + ph * index.stride[3];
    for (int64_t pw = 0; pw < PW; ++pw) {
      out[pw * y.stride[4]] = best[pw];
      at[pw * index.stride[4]] = corner + window.w.start(pw) + tap_offset[taps[pw]];
    }
  });
}

template <class T>
void gather_window(View<const T> x_any, View<const int64_t> index_any, View<T> y_any) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  const auto index = index_any.volume();
  const FlatCells<const T> x_cell(x);
  const FlatCells<T> y_cell(y);
  const FlatCells<const int64_t> index_cell(index);
  const int64_t P = y.shape[2] * y.shape[3] * y.shape[4];
  for_images(y.shape[0], y.shape[1], P, [&](int64_t n, int64_t c) {
    const T* from = image_of(x, n, c);
    const int64_t* at = image_of(index, n, c);
    T* to = image_of(y, n, c);
    for (int64_t p = 0; p < P; ++p) to[y_cell(p)] = from[x_cell(at[index_cell(p)])];
  });
}

template <class T>
void scatter_window(View<const T> y_any, View<const int64_t> index_any, View<T> x_any) {
  fill(x_any, 0.0);
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  const auto index = index_any.volume();
  const FlatCells<T> x_cell(x);
  const FlatCells<const T> y_cell(y);
  const FlatCells<const int64_t> index_cell(index);
  const int64_t P = y.shape[2] * y.shape[3] * y.shape[4];
  for_images(y.shape[0], y.shape[1], P, [&](int64_t n, int64_t c) {
    const T* from = image_of(y, n, c);
    const int64_t* at = image_of(index, n, c);
    T* to = image_of(x, n, c);
    for (int64_t p = 0; p < P; ++p) to[x_cell(at[index_cell(p)])] += from[y_cell(p)];
  });
}

template <class T>
void average_window(View<const T> x_any, View<T> y_any, const WindowGeometry& g) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  if (side_by_side(g, x)) return average_planes(x, y, g);
  const Window window(g);
  const Divisors divisors(g);
  const auto& table = elements<T>();
  const int64_t PW = g.y[2], KW = g.kernel[2];
  // few outputs and long windows (global pooling): add along the window, not across the outputs
  const bool along_window = KW > PW && g.dilation[2] == 1 && x.stride[4] == 1;
  for_output_rows(g, PW * g.kernel[0] * g.kernel[1] * KW, [&](int64_t n, int64_t c, int64_t pd, int64_t ph) {
    thread_local std::vector<double> total;
    total.assign(static_cast<size_t>(PW), 0.0);
    window.rows(image_of(x, n, c), x.stride, pd, ph, [&](int64_t, int64_t, const T* row) {
      if (along_window) {
        for (int64_t pw = 0; pw < PW; ++pw)
          total[pw] += table.sum(row + window.w.start(pw) + window.w.first_tap(pw, 0), window.w.inside(pw));
        return;
      }
      for (int64_t kw = 0; kw < KW; ++kw) {
        const int64_t lo = window.w.first_output(kw), hi = window.w.last_output(kw);
        if (lo < hi)
          table.add_tap(row + (window.w.start(lo) + kw * g.dilation[2]) * x.stride[4], g.stride[2] * x.stride[4],
                        hi - lo, total.data() + lo);
      }
    });
    T* out = image_of(y, n, c) + pd * y.stride[2] + ph * y.stride[3];
    for (int64_t pw = 0; pw < PW; ++pw) out[pw * y.stride[4]] = static_cast<T>(total[pw] / divisors.at(pd, ph, pw));
  });
}

template <class T>
void spread_window(View<const T> y_any, View<T> x_any, const WindowGeometry& g) {
  const auto x = x_any.volume();
  const auto y = y_any.volume();
  if (side_by_side(g, x)) return spread_planes(y, x, g);
  fill(x_any, 0.0);
  const Window window(g);
  const Divisors divisors(g);
  const auto& table = elements<T>();
  const int64_t PW = g.y[2], KW = g.kernel[2];
  for_images(g.batch, g.channels, g.x[0] * g.x[1] * g.x[2], [&](int64_t n, int64_t c) {
    std::vector<T> share(static_cast<size_t>(PW));
    for (int64_t pd = 0; pd < g.y[0]; ++pd)
      for (int64_t ph = 0; ph < g.y[1]; ++ph) {
        const T* row_y = image_of(y, n, c) + pd * y.stride[2] + ph * y.stride[3];
        for (int64_t pw = 0; pw < PW; ++pw)
          share[pw] = static_cast<T>(static_cast<double>(row_y[pw * y.stride[4]]) / divisors.at(pd, ph, pw));
        window.rows(image_of(x, n, c), x.stride, pd, ph, [&](int64_t, int64_t, T* row) {
          for (int64_t kw = 0; kw < KW; ++kw) {
            const int64_t lo = window.w.first_output(kw), hi = window.w.last_output(kw);
            if (lo < hi)
              table.spread_tap(share.data() + lo, row + (window.w.start(lo) + kw * g.dilation[2]) * x.stride[4],
                               g.stride[2] * x.stride[4], hi - lo);
          }
        });
      }
  });
}

#define GK_INSTANTIATE(T)                                                                    \
  template void max_window<T>(View<const T>, View<T>, View<int64_t>, const WindowGeometry&); \
  template void gather_window<T>(View<const T>, View<const int64_t>, View<T>);               \
  template void scatter_window<T>(View<const T>, View<const int64_t>, View<T>);              \
  template void average_window<T>(View<const T>, View<T>, const WindowGeometry&);            \
  template void spread_window<T>(View<const T>, View<T>, const WindowGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
