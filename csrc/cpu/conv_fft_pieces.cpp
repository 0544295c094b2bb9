// FFT convolutions that are not one transform of the whole volume.
//
// A stride s by phases: write cells of the window as v = p*s + k = s*q + r and taps as k = s*j + r, then q = p + j: a
// convolution of stride 1 between arrays whose channels are (channel, r), zeros where there is no cell or tap.
// Large volumes by overlap-save: every half of the outputs sees its own part of the window, so that scratch is bounded.
#include <algorithm>

#include "conv_fft_whole.hpp"
#include "conv_paths.hpp"
#include "conv_table.hpp"
#include "kernels.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

// ---- strides ---------------------------------------------------------------------------------------------------
bool is_strided(const ConvGeometry& g) { return g.stride[0] > 1 || g.stride[1] > 1 || g.stride[2] > 1; }

// The convolution of stride 1 between the phases.
ConvGeometry between_phases(const ConvGeometry& g) {
  ConvGeometry s = g;
  for (int i = 0; i < 3; ++i) {
    s.in_channels *= g.stride[i];
    s.kernel[i] = ceil_div(g.kernel[i], g.stride[i]);
    s.x[i] = g.y[i] + s.kernel[i] - 1;
    s.stride[i] = 1, s.pad_lo[i] = 0;
  }
  return s;
}

// Arrays (N, C, cells) and (N, C, r, q): cell i is s*q + r - pad.
struct Phases {
  int64_t s[3], pad[3], q[3];

  int64_t cells() const { return s[0] * q[0] * s[1] * q[1] * s[2] * q[2]; }
};

Phases phases_of_x(const ConvGeometry& g) {
  Phases p{};
  for (int i = 0; i < 3; ++i) p.s[i] = g.stride[i], p.pad[i] = g.pad_lo[i], p.q[i] = between_phases(g).x[i];
  return p;
}

Phases phases_of_w(const ConvGeometry& g) {
  Phases p{};
  for (int i = 0; i < 3; ++i) p.s[i] = g.stride[i], p.q[i] = between_phases(g).kernel[i];
  return p;
}

// pair(cell of v or null, cell of the phases) for every cell of the phases of image and channel t.
template <class U, class T, class F>
void for_phases(const View<U>& v, const Phases& p, T* phases, int64_t t, F&& pair) {
  U* image = v.data + t / v.shape[1] * v.stride[0] + t % v.shape[1] * v.stride[1];
  const auto inside = [&](int axis, int64_t i) { return i >= 0 && i < v.shape[axis + 2]; };
  T* at = phases + t * p.cells();
  for (int64_t r = 0; r < p.s[0] * p.s[1] * p.s[2]; ++r) {
    const int64_t r2 = r % p.s[2], r1 = r / p.s[2] % p.s[1], r0 = r / p.s[2] / p.s[1];
    for (int64_t d = 0; d < p.q[0]; ++d)
      for (int64_t h = 0; h < p.q[1]; ++h) {
        const int64_t i0 = p.s[0] * d + r0 - p.pad[0], i1 = p.s[1] * h + r1 - p.pad[1];
        const bool any = inside(0, i0) && inside(1, i1);
        U* row = any ? image + i0 * v.stride[2] + i1 * v.stride[3] : nullptr;
        for (int64_t w = 0; w < p.q[2]; ++w) {
          const int64_t i2 = p.s[2] * w + r2 - p.pad[2];
          pair(any && inside(2, i2) ? row + i2 * v.stride[4] : nullptr, *at++);
        }
      }
  }
}

template <class T>
void to_phases(View<const T> v, const Phases& p, T* phases) {
  parallel_for(v.shape[0] * v.shape[1], [&](int64_t t) {
    for_phases(v, p, phases, t, [](const T* cell, T& phase) { phase = cell ? *cell : T(0); });
  });
}

// Cells that no phase holds are left as they are.
template <class T>
void from_phases(const T* phases, const Phases& p, View<T> v) {
  parallel_for(v.shape[0] * v.shape[1], [&](int64_t t) {
    for_phases(v, p, phases, t, [](T* cell, const T& phase) {
      if (cell) *cell = phase;
    });
  });
}

template <class T>
View<T> contiguous(T* data, int64_t n, int64_t channels, const int64_t* extents) {
  View<T> v{data, 5, {n, channels, extents[0], extents[1], extents[2]}, {}};
  v.stride[4] = 1;
  for (int i = 3; i >= 0; --i) v.stride[i] = v.stride[i + 1] * v.shape[i + 1];
  return v;
}

// Memory for the phases of x or w, and the view that the convolution between them takes.
template <class T>
class PhaseArray {
 public:
  PhaseArray(const View<const T>& v, const Phases& p)
      : phases_(p), data_(v.shape[0] * v.shape[1] * p.cells()), n_(v.shape[0]), channels_(v.shape[1]) {}

  void fill(const View<const T>& v) const { to_phases(v, phases_, data_.get()); }
  void empty_into(const View<T>& v) const { from_phases<T>(data_.get(), phases_, v); }
  template <class U>
  View<U> view() const {
    return contiguous<U>(data_.get(), n_, channels_ * phases_.s[0] * phases_.s[1] * phases_.s[2], phases_.q);
  }

 private:
  const Phases phases_;
  const Scratch<T> data_;
  const int64_t n_, channels_;
};

template <class T>
View<const T> readable(const View<T>& v) {
  View<const T> r{v.data, v.rank, {}, {}};
  std::copy_n(v.shape, kMaxRank, r.shape), std::copy_n(v.stride, kMaxRank, r.stride);
  return r;
}

// ---- overlap-save ----------------------------------------------------------------------------------------------
int longest(const int64_t* extents) { return static_cast<int>(std::max_element(extents, extents + 3) - extents); }

template <class T>
View<T> part(View<T> v, int axis, int64_t first, int64_t last) {
  v.data += first * v.stride[axis + 2];
  v.shape[axis + 2] = std::max<int64_t>(0, last - first);
  return v;
}

// Outputs [first, last) along an axis.
ConvGeometry outputs_of(ConvGeometry g, int axis, int64_t first, int64_t last) {
  g.pad_lo[axis] -= first, g.y[axis] = last - first;
  return g;
}

bool sees_x(const ConvGeometry& g) {
  bool any = g.x_volume() > 0 && g.y_volume() > 0;
  for (int i = 0; i < 3; ++i) any = any && g.pad_lo[i] < g.y[i] + g.kernel[i] - 1 && -g.pad_lo[i] < g.x[i];
  return any;
}

// Halvings until the parts fit, whatever they see of x; -1: they never do. g becomes one of the parts.
template <class T>
int halvings(ConvGeometry& g) {
  if (fft_whole_covers<T>(g)) return 0;
  for (int i = 0; i < 3; ++i) g.x[i] = g.y[i] + g.kernel[i] - 1, g.pad_lo[i] = 0;
  for (int count = 0;; ++count) {
    if (fft_whole_covers<T>(g)) return count;
    const int axis = longest(g.y);
    const int64_t half = ceil_div(g.y[axis], 2);
    if (half < g.kernel[axis] || half == g.y[axis]) return -1;
    g.x[axis] -= g.y[axis] - half, g.y[axis] = half;
  }
}

template <class T>
void add(const View<const T>& from, const View<T>& to) {
  parallel_for(to.shape[0] * to.shape[1], [&](int64_t t) {
    const int64_t n = t / to.shape[1], c = t % to.shape[1];
    const T* a = from.data + n * from.stride[0] + c * from.stride[1];
    T* b = to.data + n * to.stride[0] + c * to.stride[1];
    for (int64_t d = 0; d < to.shape[2]; ++d)
      for (int64_t h = 0; h < to.shape[3]; ++h)
        for (int64_t w = 0; w < to.shape[4]; ++w)
          b[d * to.stride[2] + h * to.stride[3] + w * to.stride[4]] +=
              a[d * from.stride[2] + h * from.stride[3] + w * from.stride[4]];
  });
}

}  // namespace

template <class T>
bool conv_fft_covers(const ConvGeometry& g) {
  if (g.dilation[0] != 1 || g.dilation[1] != 1 || g.dilation[2] != 1) return false;
  if (g.batch == 0 || g.in_channels == 0 || g.out_channels == 0 || g.taps() == 0 || !sees_x(g)) return false;
  ConvGeometry s = is_strided(g) ? between_phases(g) : g;
  return halvings<T>(s) >= 0;
}

template <class T>
double conv_fft_cost(const ConvGeometry& g) {
  if (is_strided(g)) {
    const ConvGeometry s = between_phases(g);
    const double cells = static_cast<double>(s.in_channels) * static_cast<double>(s.batch * s.x_volume());
    // The copies, and what many channels on few cells cost beyond the prediction (measured from 8 to 64 channels).
    return 1.35 * conv_fft_cost<T>(s) + 10 * cells / conv_table<T>().lanes;
  }
  ConvGeometry s = g;
  const int count = halvings<T>(s);
  return static_cast<double>(int64_t(1) << count) * fft_whole_cost<T>(s);
}

template <class T>
void conv_fft(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  if (is_strided(g)) {
    const PhaseArray<T> xs(x, phases_of_x(g)), ws(w, phases_of_w(g));
    xs.fill(x), ws.fill(w);
    return conv_fft<T>(xs.template view<const T>(), ws.template view<const T>(), y, between_phases(g));
  }
  if (!sees_x(g)) return fill<T>(y, 0.0);
  if (fft_whole_covers<T>(g)) return fft_whole<T>(x, w, y, g);
  const int axis = longest(g.y);
  const int64_t n = g.y[axis], half = ceil_div(n, 2);
  if (n == 1) return conv_batch<T>(x, w, y, g);
  for (const int64_t first : {int64_t(0), half}) {
    const int64_t last = std::min(first + half, n);
    conv_fft<T>(x, w, part(y, axis, first, last), outputs_of(g, axis, first, last));
  }
}

template <class T>
void conv_transpose_fft(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  if (is_strided(g)) {
    const PhaseArray<T> xs(readable(x), phases_of_x(g)), ws(w, phases_of_w(g));
    ws.fill(w);
    conv_transpose_fft<T>(y, ws.template view<const T>(), xs.template view<T>(), between_phases(g));
    fill<T>(x, 0.0);
    return xs.empty_into(x);
  }
  if (!sees_x(g)) return fill<T>(x, 0.0);
  if (fft_whole_covers<T>(g)) return fft_whole_transpose<T>(y, w, x, g);
  const int axis = longest(g.x);
  const int64_t n = g.x[axis], half = ceil_div(n, 2), pad = g.pad_lo[axis];
  if (n == 1) return conv_transpose_batch<T>(y, w, x, g);
  for (const int64_t first : {int64_t(0), half}) {
    const int64_t last = std::min(first + half, n);
    // the outputs that see one of these cells
    const int64_t from = std::clamp<int64_t>(first + pad - g.kernel[axis] + 1, 0, g.y[axis]);
    const int64_t to = std::clamp<int64_t>(last + pad, from, g.y[axis]);
    ConvGeometry s = outputs_of(g, axis, from, to);
    s.pad_lo[axis] += first, s.x[axis] = last - first;
    conv_transpose_fft<T>(part(y, axis, from, to), w, part(x, axis, first, last), s);
  }
}

template <class T>
void conv_weight_fft(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  if (is_strided(g)) {
    const PhaseArray<T> xs(x, phases_of_x(g)), ws(readable(w), phases_of_w(g));
    xs.fill(x);
    conv_weight_fft<T>(xs.template view<const T>(), y, ws.template view<T>(), between_phases(g));
    return ws.empty_into(w);
  }
  if (!sees_x(g)) return fill<T>(w, 0.0);
  if (fft_whole_covers<T>(g)) return fft_whole_weight<T>(x, y, w, g);
  const int axis = longest(g.y);
  const int64_t n = g.y[axis], half = ceil_div(n, 2);
  if (n == 1) return conv_weight_batch<T>(x, y, w, g);
  const Scratch<T> second(w.size());
  const View<T> more = contiguous(second.get(), w.shape[0], w.shape[1], w.shape + 2);
  conv_weight_fft<T>(x, part(y, axis, 0, half), w, outputs_of(g, axis, 0, half));
  conv_weight_fft<T>(x, part(y, axis, half, n), more, outputs_of(g, axis, half, n));
  add(readable(more), w);
}

template <class T>
bool conv_gradients_fft_covers(const ConvGeometry& g) {
  return conv_fft_covers<T>(g) && !is_strided(g) && fft_whole_covers<T>(g);
}

template <class T>
void conv_gradients_fft(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw,
                        const ConvGeometry& g) {
  fft_whole_gradients<T>(x, w, y, gx, gw, g);
}

#define GK_INSTANTIATE(T)                                                                            \
  template bool conv_gradients_fft_covers<T>(const ConvGeometry&);                                   \
  template void conv_gradients_fft<T>(View<const T>, View<const T>, View<const T>, View<T>, View<T>, \
                                      const ConvGeometry&);                                          \
  template bool conv_fft_covers<T>(const ConvGeometry&);                                             \
  template double conv_fft_cost<T>(const ConvGeometry&);                                             \
  template void conv_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);             \
  template void conv_transpose_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);   \
  template void conv_weight_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
