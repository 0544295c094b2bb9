// Convolution as products of spectra (Mathieu, Henaff and LeCun, arXiv:1312.5851) with a volume in every vector lane,
// so that every butterfly is scalar code on vectors of volumes. A volume is a channel of an image, or the kernel of a
// pair of channels: any batch fills the lanes, and all three slots are the same three steps: planes of two arguments to
// spectra along W and H; per column the transforms along D, the products and the inverse; planes back.
//
// Circular transforms of n[i] >= every index difference that can occur meet zeros where they wrap. x sits in the window
// v = p + k of outputs p and taps k, so no shift is left to the spectra: y = x conj(w), x = y w, w = x conj(y).
#include <algorithm>
#include <utility>

#include "conv_fft_whole.hpp"
#include "conv_table.hpp"
#include "fft_operands.hpp"
#include "fft_volume.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kRoundBytes = int64_t(256) << 20;  // spectra of images held at a time, where one block is smaller
constexpr int64_t kMostBytes = int64_t(512) << 20;   // spectra of one block of images and of the weights
constexpr int64_t kPlaneBytes = int64_t(4) << 20;    // rows of one plane between the transforms along W and H
constexpr int64_t kColumnBytes = int64_t(64) << 20;  // one thread's column

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
        flat_(window_.n[0] == 1),
        depth_(flat_ ? window_.n[1] : window_.n[0], flat_),
        scale_(static_cast<T>(1.0 / (4.0 * static_cast<double>(window_.n[0] * window_.n[1] * window_.n[2])))) {}

  // Slot y of one group, or with transposed weights slot x: `from` and `to` are the operands of the images.
  void gather(const Operand<const T>& from, View<const T> w, const Operand<T>& to, bool transposed) const {
    const Weights weights(*this, w, transposed);
    const int64_t round = blocks_at_once(from, to);
    const Spectrum<T> in = image_spectrum(from, round, ReadBy::columns);
    const Spectrum<T> out = image_spectrum(to, round, ReadBy::planes);
    for (int64_t first = 0; first < blocks_; first += round) {
      const int64_t last = std::min(first + round, blocks_);
      forward(from, first, last, in);
      multiply(in, from, weights, out, to, first, last);
      inverse(out, to, first, last);
    }
  }

  // Slot w of one group.
  void weight(const Operand<const T>& x, const Operand<const T>& y, View<T> w) const {
    const WeightSums sums(*this, x.v.shape[1], y.v.shape[1]);
    const int64_t round = blocks_at_once(x, y);
    const Spectrum<T> xs = image_spectrum(x, round, ReadBy::columns), ys = image_spectrum(y, round, ReadBy::columns);
    for (int64_t first = 0; first < blocks_; first += round) {
      const int64_t last = std::min(first + round, blocks_);
      forward(x, first, last, xs);
      forward(y, first, last, ys);
      correlate(xs, x, ys, y, sums, first, last);
    }
    inverse(sums, w);
  }

  // gather of y into gx with transposed weights, and weight of x and y, where y is transformed along W and H once.
  void gradients(const Operand<const T>& x, View<const T> w, const Operand<const T>& y, const Operand<T>& gx,
                 View<T> gw) const {
    const Weights weights(*this, w, true);
    const WeightSums sums(*this, x.v.shape[1], y.v.shape[1]);
    const int64_t round = blocks_at_once(x, y);
    const Spectrum<T> ys = image_spectrum(y, round, ReadBy::columns);
    for (int64_t first = 0; first < blocks_; first += round) {
      const int64_t last = std::min(first + round, blocks_);
      forward(y, first, last, ys);
      {
        const Spectrum<T> out = image_spectrum(gx, round, ReadBy::planes);
        multiply(ys, y, weights, out, gx, first, last);
        inverse(out, gx, first, last);
      }
      const Spectrum<T> xs = image_spectrum(x, round, ReadBy::columns);  // in the memory of `out`
      forward(x, first, last, xs);
      correlate(xs, x, ys, y, sums, first, last);
    }
    inverse(sums, gw);
  }

 private:
  // ---- products of columns ---------------------------------------------------------------------------------------
  // Planes of the weights, in the order of FftTable::products.
  struct Weights {
    const bool transposed;
    const int tile;
    const Pairs pairs;
    const Spectrum<T> spectrum;

    Weights(const FftConv& fft, View<const T> w, bool transpose)
        : transposed(transpose),
          tile(channel_tile(w.shape[transpose ? 1 : 0], fft.lanes_)),
          pairs(tiled_pairs(w.shape[0], w.shape[1], tile, transpose, fft.lanes_)),
          spectrum(fft.spectrum(pairs.lines, fft.g_.kernel[0], ReadBy::columns)) {
      fft.planes_.forward(pair_volumes(w, pairs), pairs.lines, spectrum);
    }
  };

  void multiply(const Spectrum<T>& in, const Operand<const T>& from, const Weights& w, const Spectrum<T>& out,
                const Operand<T>& to, int64_t first, int64_t last) const {
    const int64_t inputs = from.v.shape[1], outputs = to.v.shape[1], pairs = w.pairs.lines;
    // per frequency: real and imaginary parts of all channels, an odd number of vectors apart
    const int64_t in_part = parts(inputs), out_part = parts(outputs), w_step = (pairs | 1) * vector_;
    columns([&](int64_t fw, int64_t fh) {
      Scratch<T> a((2 * n() + 1) * in_part), b((2 * n() + 1) * out_part), weights(n() * w_step),
          work(2 * n() * vector_);
      for (int64_t j = 0; j < pairs; ++j)
        into_depth(w.spectrum, fw, fh, j, {0, g_.kernel[0]}, weights.get() + j * vector_, lanes_, w_step, work.get());
      for (int64_t block = first; block < last; ++block) {
        columns_into_depth(in, fw, fh, block, first, from, a.get(), in_part, work.get());
        // i*conj(x) exchanges the parts
        const int64_t xr = w.transposed ? 0 : in_part, yr = w.transposed ? 0 : out_part;
        for (int64_t f = 0; f < n(); ++f) {
          const T* x = a.get() + 2 * f * in_part;
          T* y = b.get() + 2 * f * out_part;
          table_.products(x + xr, x + in_part - xr, images_of(block), inputs, weights.get() + f * w_step, w.tile,
                          y + yr, y + out_part - yr, outputs);
        }
        for (int64_t j = 0; j < lines(block, outputs); ++j)
          out_of_depth(b.get() + j * lanes_, out_part, {to.first[0], to.extent[0]},
                       out.at(fw, fh, (block - first) * outputs + j, 0), column_stride(out), work.get(), out.large());
      }
      table_.settle();
    });
  }

  // Planes of the weights' sums over images: x conj(y), or the conjugate of y conj(x). Channels of the first are lanes.
  struct WeightSums {
    const bool y_first;
    const int64_t lane_channels;
    const int tile;
    const Pairs pairs;
    const Spectrum<T> spectrum;

    WeightSums(const FftConv& fft, int64_t x_channels, int64_t y_channels)
        : y_first(fft.channels_first(y_channels, x_channels)),
          lane_channels(y_first ? y_channels : x_channels),
          tile(channel_tile(lane_channels, fft.lanes_)),
          pairs(lane_pairs(lane_channels, y_first ? x_channels : y_channels, tile, y_first, fft.lanes_)),
          spectrum(fft.spectrum(pairs.lines, fft.g_.kernel[0], ReadBy::planes)) {}
  };

  void correlate(const Spectrum<T>& xs, const Operand<const T>& x, const Spectrum<T>& ys, const Operand<const T>& y,
                 const WeightSums& w, int64_t first, int64_t last) const {
    const Operand<const T>&p = w.y_first ? y : x, &q = w.y_first ? x : y;
    const Spectrum<T>&p_in = w.y_first ? ys : xs, &q_in = w.y_first ? xs : ys;
    const int64_t ps = p.v.shape[1], qs = q.v.shape[1];
    const int64_t p_part = parts(ps), q_part = parts(qs), w_part = parts(w.pairs.lines);
    columns([&](int64_t fw, int64_t fh) {
      Scratch<T> a((2 * n() + 1) * p_part), b((2 * n() + 1) * q_part), sums((2 * n() + 1) * w_part);
      const Cells kernel = along_column({0, g_.kernel[0]});
      Scratch<T> work(2 * n() * vector_), part(kernel.extent * vector_);
      std::fill_n(sums.get(), 2 * n() * w_part, T(0));
      for (int64_t block = first; block < last; ++block) {
        columns_into_depth(p_in, fw, fh, block, first, p, a.get(), p_part, work.get());
        columns_into_depth(q_in, fw, fh, block, first, q, b.get(), q_part, work.get());
        for (int64_t f = 0; f < n(); ++f) {
          const T *pf = a.get() + 2 * f * p_part, *qf = b.get() + 2 * f * q_part;
          T* to = sums.get() + 2 * f * w_part;
          table_.outer(pf, pf + p_part, images_of(block), ps, w.tile, qf, qf + q_part, qs, T(w.y_first ? -1 : 1), to,
                       to + w_part);
        }
      }
      for (int64_t j = 0; j < w.pairs.lines; ++j) {
        T* to = w.spectrum.at(fw, fh, j, 0);
        const T* from = sums.get() + j * lanes_;
        const int64_t stride = column_stride(w.spectrum);
        if (first == 0) {
          out_of_depth(from, w_part, kernel, to, stride, work.get());
          continue;
        }
        out_of_depth(from, w_part, kernel, part.get(), vector_, work.get());
        for (int64_t k = 0; k < kernel.extent; ++k)
          for (int64_t i = 0; i < vector_; ++i) to[k * stride + i] += part.get()[k * vector_ + i];
      }
    });
  }

  void inverse(const WeightSums& sums, View<T> w) const {
    planes_.inverse(sums.spectrum, sums.pairs.lines, pair_volumes(w, sums.pairs), scale_);
  }

  int64_t n() const { return depth_.get().n; }
  // Whether the channels `a` rather than `b` become lanes: fewer lanes idle, else fewer images share a vector.
  bool channels_first(int64_t a, int64_t b) const {
    const auto pairs = [&](int64_t lanes_of, int64_t broadcast) {
      const int tile = channel_tile(lanes_of, lanes_);
      return ceil_div(lanes_of, tile) * tile * broadcast;
    };
    return std::make_pair(pairs(a, b), -a) < std::make_pair(pairs(b, a), -b);
  }

  // ---- images in the lanes: image after image, so that the channels of one are neighbours ------------------------
  int64_t images_of(int64_t block) const { return std::min<int64_t>(lanes_, g_.batch - block * lanes_); }
  int64_t lines(int64_t block, int64_t channels) const { return ceil_div(images_of(block) * channels, lanes_); }
  // Only the last block of all may have fewer lines than channels.
  int64_t lines_of(int64_t first, int64_t last, int64_t channels) const {
    return (last - 1 - first) * channels + lines(last - 1, channels);
  }

  template <class U>
  LaneVolumes<U> image_volumes(const Operand<U>& a, int64_t first, int64_t last) const {
    const int64_t channels = a.v.shape[1];
    LaneVolumes<U> v = volumes(a);
    for (int64_t b = first; b < last; ++b)
      for (int64_t e = 0; e < lines(b, channels) * lanes_; ++e) {
        const int64_t image = e / channels;
        v.base.push_back(image < images_of(b)
                             ? origin(a) + (b * lanes_ + image) * a.v.stride[0] + e % channels * a.v.stride[1]
                             : nullptr);
      }
    return v;
  }

  template <class U>
  Spectrum<T> image_spectrum(const Operand<U>& a, int64_t blocks, ReadBy order) const {
    return spectrum(lines_of(0, blocks, a.v.shape[1]), a.extent[0], order);
  }

  void forward(const Operand<const T>& a, int64_t first, int64_t last, const Spectrum<T>& to) const {
    planes_.forward(image_volumes(a, first, last), lines_of(first, last, a.v.shape[1]), to);
  }

  void inverse(const Spectrum<T>& from, const Operand<T>& a, int64_t first, int64_t last) const {
    planes_.inverse(from, lines_of(first, last, a.v.shape[1]), image_volumes(a, first, last), scale_);
  }

  Spectrum<T> spectrum(int64_t lines, int64_t depth, ReadBy order) const {
    return Spectrum<T>(window_.frequencies(), window_.n[1], lines, depth, lanes_, flat_ ? ReadBy::planes : order);
  }

  // From the real parts of one frequency to its imaginary parts: a vector more, for what reads or writes beyond them.
  int64_t parts(int64_t lines) const { return ((lines + 1) | 1) * lanes_; }

  template <class A, class B>
  int64_t blocks_at_once(const Operand<A>& a, const Operand<B>& b) const {
    const int64_t planes = a.v.shape[1] * a.extent[0] + b.v.shape[1] * b.extent[0];
    const int64_t bytes =
        Spectrum<T>::elements(window_.frequencies(), window_.n[1], planes, 1, lanes_) * static_cast<int64_t>(sizeof(T));
    return std::max<int64_t>(1, std::min(blocks_, kRoundBytes / bytes));
  }

  // ---- columns: the transforms along D, of flat volumes all frequencies along H as they are -----------------------
  struct Cells {
    int64_t first, extent;
  };

  Cells along_column(const Cells& cells) const { return flat_ ? Cells{0, n()} : cells; }
  int64_t column_stride(const Spectrum<T>& s) const { return flat_ ? s.h_stride() : s.plane_stride(); }

  template <class Column>
  void columns(const Column& column) const {
    const int64_t groups = ceil_div(window_.frequencies(), Spectrum<T>::kTogether), h = flat_ ? 1 : window_.n[1];
    parallel_for(groups * h, [&](int64_t i) {
      const int64_t begin = i / h * Spectrum<T>::kTogether;
      const int64_t end = std::min(begin + Spectrum<T>::kTogether, window_.frequencies());
      for (int64_t fw = begin; fw < end; ++fw) column(fw, i % h);
    });
  }

  void into_depth(const Spectrum<T>& from, int64_t fw, int64_t fh, int64_t line, const Cells& cells, T* to,
                  int64_t part, int64_t step, T* work) const {
    const Cells c = along_column(cells);
    table_.transform(
        depth_.get(),
        fetching(fft_line<const T>(from.at(fw, fh, line, 0), lanes_, column_stride(from), c.first, c.first + c.extent),
                 from.ahead_in_column()),
        fetching(fft_line(to, part, step, 0, n()), vector_), work);
  }

  // The column of a block, of a spectrum that begins with block `first`.
  void columns_into_depth(const Spectrum<T>& from, int64_t fw, int64_t fh, int64_t block, int64_t first,
                          const Operand<const T>& a, T* to, int64_t part, T* work) const {
    const int64_t channels = a.v.shape[1];
    for (int64_t j = 0; j < lines(block, channels); ++j)
      into_depth(from, fw, fh, (block - first) * channels + j, {a.first[0], a.extent[0]}, to + j * lanes_, part,
                 2 * part, work);
  }

  void out_of_depth(const T* from, int64_t part, const Cells& cells, T* to, int64_t stride, T* work,
                    bool stream = false) const {
    const Cells c = along_column(cells);
    table_.transform(depth_.get(), exchanged(fetching(fft_line(from, part, 2 * part, 0, n()), vector_)),
                     exchanged(fft_line(to, lanes_, stride, c.first, c.first + c.extent, stream)), work);
  }

  const ConvGeometry g_;
  const Window window_;
  const int lanes_;
  const int64_t vector_, blocks_;
  const VolumeFft<T> planes_;
  const bool flat_;
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
bool fft_whole_covers(const ConvGeometry& g) {
  const int lanes = conv_table<T>().lanes;
  const int64_t outputs = g.out_channels / g.groups, inputs = g.in_channels / g.groups;
  if (g.batch == 0 || inputs == 0 || outputs == 0 || g.y_volume() == 0 || g.taps() == 0) return false;
  const Window window(g);
  if (!window.fits()) return false;
  const int64_t rows = std::max(window.end[1] - window.begin[1], g.y[1]);
  if (rows * window.frequencies() * 2 * lanes * static_cast<int64_t>(sizeof(T)) > kPlaneBytes) return false;
  const auto bytes = [&](int64_t lines, int64_t depth) {
    return Spectrum<T>::elements(window.frequencies(), window.n[1], lines, depth, lanes) *
           static_cast<int64_t>(sizeof(T));
  };
  // Pairs are padded to whole tiles of either channel.
  const int64_t output_tile = channel_tile(outputs, lanes), input_tile = channel_tile(inputs, lanes);
  const int64_t pairs = std::max(ceil_div(outputs, output_tile) * output_tile * inputs,
                                 ceil_div(inputs, input_tile) * input_tile * outputs);
  const int64_t lines = ceil_div(pairs, lanes) + 1;
  if (lines > kColumnBytes || inputs > kColumnBytes || outputs > kColumnBytes) return false;
  const int64_t column = (window.n[0] == 1 ? window.n[1] : window.n[0]) * (inputs + outputs + 3 * lines) * 2 * lanes *
                         static_cast<int64_t>(sizeof(T));
  return column <= kColumnBytes &&
         bytes(inputs, window.end[0] - window.begin[0]) + bytes(outputs, g.y[0]) + bytes(lines, g.kernel[0]) <=
             kMostBytes;
}

// Multiply-adds of vectors on the batch path that take as long. With 5x5x5 taps on 25x25x25 cells (1 to 32, 32 to 8, 8
// to 8 channels; 16 images) a complex vector takes 5 to 6 ns on its way through the transforms and a multiply-add of
// the products 0.2 ns, where the batch path does one in 0.14 to 0.2 ns.
template <class T>
double fft_whole_cost(const ConvGeometry& g) {
  const int lanes = conv_table<T>().lanes;
  const Window window(g);
  const int64_t inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  const int tile = channel_tile(std::max(inputs, outputs), lanes);
  const auto lines = [&](int64_t volumes) { return static_cast<double>(ceil_div(volumes, lanes)); };
  const double points =
      lines(g.batch * inputs) * window.points(window.end[0] - window.begin[0], window.end[1] - window.begin[1]) +
      lines(g.batch * outputs) * window.points(g.y[0], g.y[1]) +
      lines(inputs * outputs) * window.points(g.kernel[0], g.kernel[1]);
  const int64_t vectors = ceil_div(std::max(inputs, outputs), tile) * ceil_div(std::min(inputs, outputs) * tile, lanes);
  const double products =
      4.0 * static_cast<double>(window.frequencies() * window.n[1] * window.n[0] * g.batch * vectors);
  const double point = window.n[0] == 1 ? 65 : 37;  // columns of flat volumes are gathered with far strides
  return static_cast<double>(g.groups) * (point * points + 1.4 * products);
}

template <class T>
void fft_whole(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  const FftConv<T> fft(g);
  const Window window(g);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.gather(window_of_x(group_of(x, 1, i, g.groups), window, g), group_of(w, 0, i, g.groups),
               whole(group_of(y, 1, i, g.groups)), false);
}

// Does every cell of x meet some output and tap?
bool sees_all_of_x(const Window& window, const ConvGeometry& g) {
  bool all = true;
  for (int i = 0; i < 3; ++i) all = all && window.begin[i] == 0 && window.end[i] == g.x[i];
  return all;
}

template <class T>
void fft_whole_transpose(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  const FftConv<T> fft(g);
  const Window window(g);
  if (!sees_all_of_x(window, g)) fill<T>(x, 0.0);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.gather(whole(group_of(y, 1, i, g.groups)), group_of(w, 0, i, g.groups),
               window_of_x(group_of(x, 1, i, g.groups), window, g), true);
}

template <class T>
void fft_whole_weight(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  const FftConv<T> fft(g);
  const Window window(g);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.weight(window_of_x(group_of(x, 1, i, g.groups), window, g), whole(group_of(y, 1, i, g.groups)),
               group_of(w, 0, i, g.groups));
}

template <class T>
void fft_whole_gradients(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw,
                         const ConvGeometry& g) {
  const FftConv<T> fft(g);
  const Window window(g);
  if (!sees_all_of_x(window, g)) fill<T>(gx, 0.0);
  for (int64_t i = 0; i < g.groups; ++i)
    fft.gradients(window_of_x(group_of(x, 1, i, g.groups), window, g), group_of(w, 0, i, g.groups),
                  whole(group_of(y, 1, i, g.groups)), window_of_x(group_of(gx, 1, i, g.groups), window, g),
                  group_of(gw, 0, i, g.groups));
}

#define GK_INSTANTIATE(T)                                                                             \
  template bool fft_whole_covers<T>(const ConvGeometry&);                                             \
  template double fft_whole_cost<T>(const ConvGeometry&);                                             \
  template void fft_whole<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);             \
  template void fft_whole_transpose<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);   \
  template void fft_whole_weight<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);      \
  template void fft_whole_gradients<T>(View<const T>, View<const T>, View<const T>, View<T>, View<T>, \
                                       const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
