// Convolution as products of spectra, with the batch in the vector lanes (Mathieu, Henaff and LeCun, arXiv:1312.5851,
// with lanes over images instead of over frequencies: every butterfly is scalar code on vectors of images). The weights
// are volumes too, with (output, input) pairs in the lanes, so all three slots are the same three steps: planes of two
// arguments to spectra along W and H; per column the transforms along D, the products and the inverse; planes back.
//
// Circular transforms of n[i] >= every index difference that can occur meet zeros where they wrap. x sits in the window
// v = p + k of outputs p and taps k, so no shift is left to the spectra: y = x conj(w), x = y w, w = x conj(y).
#include <algorithm>
#include <vector>

#include "conv_paths.hpp"
#include "conv_table.hpp"
#include "fft_volume.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kRoundBytes = int64_t(256) << 20;  // spectra of images held at a time, where one block is smaller
constexpr int64_t kMostBytes = int64_t(1) << 30;     // spectra of one block of images and of the weights
constexpr int64_t kColumnBytes = int64_t(64) << 20;  // one thread's column

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Extents of the transforms, and the cells [begin, end) of x that some output and tap meet.
struct Window {
  int64_t n[3], begin[3], end[3];

  explicit Window(const ConvGeometry& g) {
    for (int i = 0; i < 3; ++i) {
      const int64_t extent = g.y[i] + g.kernel[i] - 1;  // of the window
      begin[i] = std::max<int64_t>(0, -g.pad_lo[i]);
      end[i] = std::min(g.x[i], extent - g.pad_lo[i]);
      const int64_t first = begin[i] + g.pad_lo[i], last = end[i] + g.pad_lo[i];
      n[i] = first < last ? fft_length(std::max({extent - first, last, g.y[i], g.kernel[i]})) : 0;
    }
  }
  bool fits() const { return n[0] > 0 && n[1] > 0 && n[2] > 0; }
  int64_t frequencies() const { return n[2] / 2 + 1; }
};

// How pairs (output, input) of channels fill the lanes of the weights' volumes.
struct Pairs {
  int64_t lines = 0;
  std::vector<int64_t> output, input;  // of every lane of every line; -1: nothing

  void add(int64_t o, int64_t c) { output.push_back(o), input.push_back(c); }
  void finish(int lanes) {
    lines = ceil_div(static_cast<int64_t>(output.size()), lanes);
    output.resize(lines * lanes, -1), input.resize(lines * lanes, -1);
  }
};

int product_tile(int max_tile, int64_t outputs) {
  int tile = 1;
  while (tile < max_tile && tile < outputs) tile *= 2;
  return tile;
}

// In tiles of `tile` receiving channels, as FftTable::products reads them; transposed: the inputs receive.
Pairs tiled_pairs(int64_t outputs, int64_t inputs, int tile, bool transposed, int lanes) {
  Pairs pairs;
  const int64_t to = transposed ? inputs : outputs, from = transposed ? outputs : inputs;
  for (int64_t t = 0; t < to; t += tile)
    for (int64_t f = 0; f < from; ++f)
      for (int64_t r = t; r < t + tile; ++r)
        if (r >= to)
          pairs.add(-1, -1);
        else
          transposed ? pairs.add(f, r) : pairs.add(r, f);
  pairs.finish(lanes);
  return pairs;
}

template <class T>
struct Operand {
  View<T> v;
  int64_t begin[3], extent[3], first[3];
};

template <class T>
Operand<T> window_of_x(View<T> x, const Window& window, const ConvGeometry& g) {
  Operand<T> a{x, {}, {}, {}};
  for (int i = 0; i < 3; ++i) {
    a.begin[i] = window.begin[i], a.extent[i] = window.end[i] - window.begin[i];
    a.first[i] = window.begin[i] + g.pad_lo[i];
  }
  return a;
}

template <class T>
Operand<T> whole(View<T> v) {
  return {v, {0, 0, 0}, {v.shape[2], v.shape[3], v.shape[4]}, {0, 0, 0}};
}

template <class T>
LaneVolumes<T> volumes(const Operand<T>& a) {
  LaneVolumes<T> v{{}, {}, {}, {}};
  for (int i = 0; i < 3; ++i) v.extent[i] = a.extent[i], v.stride[i] = a.v.stride[i + 2], v.first[i] = a.first[i];
  return v;
}

template <class T>
T* origin(const Operand<T>& a) {
  return a.v.data + a.begin[0] * a.v.stride[2] + a.begin[1] * a.v.stride[3] + a.begin[2] * a.v.stride[4];
}

// Lines (block of images, channel) for blocks [first, first + count).
template <class T>
LaneVolumes<T> image_volumes(const Operand<T>& a, int64_t first, int64_t count, int lanes) {
  LaneVolumes<T> v = volumes(a);
  for (int64_t b = first; b < first + count; ++b)
    for (int64_t c = 0; c < a.v.shape[1]; ++c)
      for (int64_t n = b * lanes; n < (b + 1) * lanes; ++n)
        v.base.push_back(n < a.v.shape[0] ? origin(a) + n * a.v.stride[0] + c * a.v.stride[1] : nullptr);
  return v;
}

template <class T>
LaneVolumes<T> pair_volumes(View<T> w, const Pairs& pairs) {
  LaneVolumes<T> v = volumes(whole(w));
  for (size_t i = 0; i < pairs.output.size(); ++i)
    v.base.push_back(pairs.output[i] < 0 ? nullptr
                                         : w.data + pairs.output[i] * w.stride[0] + pairs.input[i] * w.stride[1]);
  return v;
}

template <class T>
class FftConv {
 public:
  explicit FftConv(const ConvGeometry& g)
      : g_(g),
        window_(g),
        lanes_(conv_table<T>().lanes),
        vector_(2 * lanes_),
        blocks_(ceil_div(g.batch, lanes_)),
        planes_(window_.n[2], window_.n[1], lanes_),
        depth_(window_.n[0]),
        scale_(static_cast<T>(1.0 / (4.0 * static_cast<double>(window_.n[0] * window_.n[1] * window_.n[2])))) {}

  // Slot y of one group, or with transposed weights slot x: `from` and `to` are the operands of the images.
  void gather(const Operand<const T>& from, View<const T> w, const Operand<T>& to, bool transposed) {
    const int64_t inputs = from.v.shape[1], outputs = to.v.shape[1];
    const int tile = product_tile(table_.max_tile, outputs);
    const Pairs pairs = tiled_pairs(w.shape[0], w.shape[1], tile, transposed, lanes_);
    const Spectrum<T> ws = spectrum(pairs.lines, g_.kernel[0]);
    planes_.forward(pair_volumes(w, pairs), pairs.lines, ws);
    const int64_t round = blocks_at_once(inputs * from.extent[0] + outputs * to.extent[0]);
    const Spectrum<T> in = spectrum(round * inputs, from.extent[0]), out = spectrum(round * outputs, to.extent[0]);
    for (int64_t first = 0; first < blocks_; first += round) {
      const int64_t count = std::min(round, blocks_ - first);
      planes_.forward(image_volumes(from, first, count, lanes_), count * inputs, in);
      // per frequency: the channels, an odd number of vectors apart from those of the next
      const int64_t in_step = (inputs | 1) * vector_, out_step = (outputs | 1) * vector_;
      const int64_t w_step = (pairs.lines | 1) * vector_;
      columns([&](int64_t fw, int64_t fh) {
        Scratch<T> a(n() * in_step), b(n() * out_step), weights(n() * w_step), work(2 * n() * vector_);
        for (int64_t j = 0; j < pairs.lines; ++j)
          into_depth(ws, fw, fh, j, 0, g_.kernel[0], weights.get() + j * vector_, w_step, work.get());
        for (int64_t block = 0; block < count; ++block) {
          for (int64_t c = 0; c < inputs; ++c)
            into_depth(in, fw, fh, block * inputs + c, from.first[0], from.extent[0], a.get() + c * vector_, in_step,
                       work.get());
          for (int64_t f = 0; f < n(); ++f)
            table_.products(a.get() + f * in_step, inputs, weights.get() + f * w_step, tile, b.get() + f * out_step,
                            outputs, !transposed);
          for (int64_t o = 0; o < outputs; ++o)
            out_of_depth(b.get() + o * vector_, out_step, to.first[0], to.extent[0],
                         out.at(fw, fh, block * outputs + o, 0), work.get());
        }
      });
      planes_.inverse(out, count * outputs, image_volumes(to, first, count, lanes_), scale_);
    }
  }

  // Slot w of one group: x conj(y), or the conjugate of y conj(x). Channels of the first become lanes.
  void weight(const Operand<const T>& x, const Operand<const T>& y, View<T> w) {
    const bool y_first = filling(y.v.shape[1], x.v.shape[1]) < filling(x.v.shape[1], y.v.shape[1]);
    const Operand<const T>&p = y_first ? y : x, &q = y_first ? x : y;
    const int64_t ps = p.v.shape[1], qs = q.v.shape[1], rows = ceil_div(2 * ps, lanes_);
    Pairs pairs;
    for (int64_t b = 0; b < qs; ++b)
      for (int64_t a = 0; a < rows * lanes_ / 2; ++a)
        if (a >= ps)
          pairs.add(-1, -1);
        else
          y_first ? pairs.add(a, b) : pairs.add(b, a);
    pairs.finish(lanes_);
    const Spectrum<T> ws = spectrum(pairs.lines, g_.kernel[0]);
    const int64_t round = blocks_at_once(ps * p.extent[0] + qs * q.extent[0]);
    const Spectrum<T> p_in = spectrum(round * ps, p.extent[0]), q_in = spectrum(round * qs, q.extent[0]);
    for (int64_t first = 0; first < blocks_; first += round) {
      const int64_t count = std::min(round, blocks_ - first);
      planes_.forward(image_volumes(p, first, count, lanes_), count * ps, p_in);
      planes_.forward(image_volumes(q, first, count, lanes_), count * qs, q_in);
      const int64_t p_step = rows * lanes_ * lanes_ + vector_, q_step = (qs | 1) * vector_;
      const int64_t sum_step = pairs.lines * vector_, w_step = (pairs.lines | 1) * vector_;
      columns([&](int64_t fw, int64_t fh) {
        Scratch<T> a(n() * p_step), b(n() * q_step), sums(n() * sum_step), weights(n() * w_step);
        Scratch<T> work(2 * n() * vector_), part(g_.kernel[0] * ws.plane_stride());
        std::fill_n(sums.get(), n() * sum_step, T(0));
        for (int64_t f = 0; f < n(); ++f) std::fill_n(a.get() + f * p_step + ps * vector_, p_step - ps * vector_, T(0));
        for (int64_t block = 0; block < count; ++block) {
          for (int64_t c = 0; c < ps; ++c)
            into_depth(p_in, fw, fh, block * ps + c, p.first[0], p.extent[0], a.get() + c * vector_, p_step,
                       work.get());
          for (int64_t c = 0; c < qs; ++c)
            into_depth(q_in, fw, fh, block * qs + c, q.first[0], q.extent[0], b.get() + c * vector_, q_step,
                       work.get());
          for (int64_t f = 0; f < n(); ++f)
            table_.outer(a.get() + f * p_step, rows, b.get() + f * q_step, qs, sums.get() + f * sum_step);
        }
        for (int64_t f = 0; f < n(); ++f)
          table_.unzip(sums.get() + f * sum_step, 2 * pairs.lines, T(y_first ? -1 : 1), weights.get() + f * w_step);
        for (int64_t j = 0; j < pairs.lines; ++j) {
          T* to = ws.at(fw, fh, j, 0);
          out_of_depth(weights.get() + j * vector_, w_step, 0, g_.kernel[0], first == 0 ? to : part.get(), work.get());
          for (int64_t k = 0; first > 0 && k < g_.kernel[0]; ++k)
            for (int64_t i = 0; i < vector_; ++i)
              to[k * ws.plane_stride() + i] += part.get()[k * ws.plane_stride() + i];
        }
      });
    }
    planes_.inverse(ws, pairs.lines, pair_volumes(w, pairs), scale_);
  }

 private:
  int64_t n() const { return window_.n[0]; }
  int64_t filling(int64_t lanes_of, int64_t broadcast) const { return ceil_div(2 * lanes_of, lanes_) * broadcast; }

  Spectrum<T> spectrum(int64_t lines, int64_t depth) const {
    return Spectrum<T>(window_.frequencies(), window_.n[1], lines, depth, lanes_);
  }

  int64_t blocks_at_once(int64_t planes) const {
    const int64_t bytes =
        Spectrum<T>::elements(window_.frequencies(), window_.n[1], planes, 1, lanes_) * static_cast<int64_t>(sizeof(T));
    return std::max<int64_t>(1, std::min(blocks_, kRoundBytes / bytes));
  }

  template <class Column>
  void columns(const Column& column) const {
    const int64_t groups = ceil_div(window_.frequencies(), Spectrum<T>::kTogether), h = window_.n[1];
    parallel_for(groups * h, [&](int64_t i) {
      const int64_t begin = i / h * Spectrum<T>::kTogether;
      const int64_t end = std::min(begin + Spectrum<T>::kTogether, window_.frequencies());
      for (int64_t fw = begin; fw < end; ++fw) column(fw, i % h);
    });
  }

  void into_depth(const Spectrum<T>& from, int64_t fw, int64_t fh, int64_t line, int64_t first, int64_t extent, T* to,
                  int64_t step, T* work) const {
    table_.transform(depth_.get(),
                     fft_line<const T>(from.at(fw, fh, line, 0), lanes_, from.plane_stride(), first, first + extent),
                     fft_line(to, lanes_, step, 0, n()), work);
  }

  void out_of_depth(const T* from, int64_t step, int64_t first, int64_t extent, T* to, T* work) const {
    table_.transform(depth_.get(), exchanged(fft_line(from, lanes_, step, 0, n())),
                     exchanged(fft_line(to, lanes_, Spectrum<T>::kTogether * vector_, first, first + extent)), work);
  }

  const ConvGeometry g_;
  const Window window_;
  const int lanes_;
  const int64_t vector_, blocks_;
  const VolumeFft<T> planes_;
  const OwnedFftPlan<T> depth_;
  const T scale_;
  const FftTable<T>& table_ = fft_table<T>();
};

// Channels [group*count, (group + 1)*count) along `axis`.
template <class T>
View<T> group_of(View<T> v, int axis, int64_t group, int64_t groups) {
  v.shape[axis] /= groups;
  v.data += group * v.shape[axis] * v.stride[axis];
  return v;
}

}  // namespace

template <class T>
bool conv_fft_covers(const ConvGeometry& g) {
  for (int i = 0; i < 3; ++i)
    if (g.stride[i] != 1 || g.dilation[i] != 1) return false;
  const int lanes = conv_table<T>().lanes;
  const int64_t outputs = g.out_channels / g.groups, inputs = g.in_channels / g.groups;
  if (2 * g.batch < lanes || inputs == 0 || outputs == 0 || g.y_volume() == 0 || g.taps() == 0) return false;
  const Window window(g);
  if (!window.fits()) return false;
  const auto bytes = [&](int64_t lines, int64_t depth) {
    return Spectrum<T>::elements(window.frequencies(), window.n[1], lines, depth, lanes) *
           static_cast<int64_t>(sizeof(T));
  };
  // Pairs are padded to whole tiles of outputs, or to whole vectors of channels.
  const int64_t pairs = std::max(ceil_div(outputs, 8) * 8 * inputs, ceil_div(inputs, 8) * 8 * outputs);
  const int64_t lines = ceil_div(2 * pairs, lanes) + 1;
  if (lines > kColumnBytes || inputs > kColumnBytes || outputs > kColumnBytes) return false;
  const int64_t column = window.n[0] * (inputs + outputs + 3 * lines) * 2 * lanes * static_cast<int64_t>(sizeof(T));
  return column <= kColumnBytes &&
         bytes(inputs, window.end[0] - window.begin[0]) + bytes(outputs, g.y[0]) + bytes(lines, g.kernel[0]) <=
             kMostBytes;
}

template <class T>
void conv_fft(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  FftConv<T> fft(g);
  const Window window(g);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.gather(window_of_x(group_of(x, 1, i, g.groups), window, g), group_of(w, 0, i, g.groups),
               whole(group_of(y, 1, i, g.groups)), false);
}

template <class T>
void conv_transpose_fft(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  FftConv<T> fft(g);
  const Window window(g);
  bool covered = true;
  for (int i = 0; i < 3; ++i) covered = covered && window.begin[i] == 0 && window.end[i] == g.x[i];
  if (!covered) fill<T>(x, 0.0);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.gather(whole(group_of(y, 1, i, g.groups)), group_of(w, 0, i, g.groups),
               window_of_x(group_of(x, 1, i, g.groups), window, g), true);
}

template <class T>
void conv_weight_fft(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  FftConv<T> fft(g);
  const Window window(g);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.weight(window_of_x(group_of(x, 1, i, g.groups), window, g), whole(group_of(y, 1, i, g.groups)),
               group_of(w, 0, i, g.groups));
}

#define GK_INSTANTIATE(T)                                                                          \
  template bool conv_fft_covers<T>(const ConvGeometry&);                                           \
  template void conv_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);           \
  template void conv_transpose_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void conv_weight_fft<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
