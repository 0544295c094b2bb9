// Batch normalisation over (N, L) for each channel of x(N, C, L). Moments: of blocks, as differences from their first
// element, combined pairwise by the formula of Chan, Golub and LeVeque (1979), so a large mean costs no digits. Short
// rows of several channels are read together, as they lie in memory; the gradient's second pass finds in the cache what
// its first one read.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "elements.hpp"
#include "epilogue.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kBlockLength = 4096;             // elements of a channel that are summed together
constexpr int64_t kRowLength = 512;                // of an image that a block of channels has, in short rows
constexpr int64_t kGroupBytes = int64_t(1) << 20;  // of channels between two passes over them: they stay in the cache

// Channels cut into blocks: pieces of one row if rows are long, else several whole rows. Only the shape says what is
// summed together.
struct ChannelBlocks {
  int64_t C, N, L, piece, pieces_per_row, rows_per_block, count;

  template <class T>
  explicit ChannelBlocks(const View<T>& x) : C(x.shape[1]), N(x.shape[0]), L(x.shape[2]) {
    const bool long_rows = L >= kBlockLength / 2;
    pieces_per_row = long_rows ? (L + kBlockLength - 1) / kBlockLength : 1;
    piece = (L + pieces_per_row - 1) / pieces_per_row;
    rows_per_block = long_rows ? 1 : std::max<int64_t>(1, kBlockLength / std::max<int64_t>(1, L));
    count = (N + rows_per_block - 1) / rows_per_block * pieces_per_row;
  }

  // Rows that fill vectors are worked on one by one, shorter ones as one row.
  bool by_rows() const { return piece % 16 == 0 || piece >= 64; }

  // Block b of a channel: `rows` rows of n elements.
  struct Block {
    int64_t row, first, rows, n;
  };
  Block block(int64_t b) const {
    const int64_t row = b / pieces_per_row * rows_per_block, first = b % pieces_per_row * piece;
    return {row, first, std::min(rows_per_block, N - row), std::min(piece, L - first)};
  }
  NormTile tile(const Block& b, int64_t channels) const {
    return by_rows() ? NormTile{channels, b.rows, b.n} : NormTile{channels, 1, b.rows * b.n};
  }

  template <class T>
  bool in_place(const View<T>& x) const {
    return (L == 1 || x.stride[2] == 1) && (by_rows() || N == 1 || x.stride[0] == L);
  }
  // Channels that are worked on together, row by row: as many as make rows long, if they need not be gathered.
  template <class... Views>
  int64_t channels_at_once(const Views&... views) const {
    if (!by_rows() || !(in_place(views) && ...)) return 1;
    return std::clamp<int64_t>(kRowLength / std::max<int64_t>(1, L), 1, std::clamp<int64_t>(C, 1, kNormChannels));
  }

  template <class T>
  T* begin(const View<T>& x, int64_t c, const Block& b) const {
    return x.data + b.row * x.stride[0] + c * x.stride[1] + b.first * x.stride[2];
  }

  // The rows of a block of the channels from c on, in place; or of channel c, gathered into `buffer` (kBlockLength).
  template <class T>
  NormRows<const T> rows(const View<const T>& x, int64_t c, const Block& b, T* buffer) const {
    const T* from = begin(x, c, b);
    if (in_place(x)) return {from, x.stride[0], x.stride[1]};
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t i = 0; i < b.n; ++i) buffer[r * b.n + i] = from[r * x.stride[0] + i * x.stride[2]];
    return {buffer, b.n, 0};
  }

  // run(rows) on the same rows of y, which it writes.
  template <class T, class F>
  void write(const View<T>& y, int64_t c, const Block& b, T* buffer, F&& run) const {
    T* to = begin(y, c, b);
    if (in_place(y)) return run(NormRows<T>{to, y.stride[0], y.stride[1]});
    run(NormRows<T>{buffer, b.n, 0});
    for (int64_t r = 0; r < b.rows; ++r)
      for (int64_t i = 0; i < b.n; ++i) to[r * y.stride[0] + i * y.stride[2]] = buffer[r * b.n + i];
  }

  int64_t blocks_per_task(int64_t channels) const {
    return std::max<int64_t>(1, 8 * kBlockLength / std::max<int64_t>(1, rows_per_block * piece * channels));
  }
  // run(c, channels, b) for every block b of the channels [first, last), in parallel.
  template <class F>
  void each(int64_t first, int64_t last, int64_t at_once, F&& run) const {
    const int64_t tiles = (last - first + at_once - 1) / at_once;
    parallel_chunks(tiles * count, blocks_per_task(at_once), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t c = first + i / count * at_once;
        run(c, std::min(at_once, last - c), i % count);
      }
    });
  }
};

struct Moments {
  double count = 0, mean = 0, square_sum = 0;

  void join(const Moments& o) {
    const double total = count + o.count, step = o.mean - mean;
    mean += step * (o.count / total);
    square_sum += o.square_sum + step * step * (count * o.count / total);
    count = total;
  }
};

struct GradientSums {
  double ct = 0, ct_x = 0;
  void join(const GradientSums& o) {
    ct += o.ct;
    ct_x += o.ct_x;
  }
};

// part[0] = the pairwise combination of `count` parts
template <class P>
void join_pairwise(P* part, int64_t count) {
  for (int64_t step = 1; step < count; step *= 2)
    for (int64_t i = 0; i + step < count; i += 2 * step) part[i].join(part[i + step]);
}

// sums(c, channels, block, found) finds NormSums of channels, as(found, elements) is a part of one: the joined parts of
// the channels [first, last).
template <class P, class Sums, class As>
std::vector<P> channel_parts(const ChannelBlocks& blocks, int64_t first, int64_t last, int64_t at_once, Sums&& sums,
                             As&& as) {
  std::vector<P> parts(static_cast<size_t>((last - first) * blocks.count)), joined(static_cast<size_t>(last - first));
  blocks.each(first, last, at_once, [&](int64_t c, int64_t channels, int64_t b) {
    NormSums found[kNormChannels];
    const ChannelBlocks::Block block = blocks.block(b);
    sums(c, channels, block, found);
    for (int64_t i = 0; i < channels; ++i)
      parts[(c + i - first) * blocks.count + b] = as(found[i], static_cast<double>(block.rows * block.n));
  });
  for (int64_t c = 0; c < last - first; ++c) {
    join_pairwise(parts.data() + c * blocks.count, blocks.count);
    if (blocks.count > 0) joined[c] = parts[c * blocks.count];
  }
  return joined;
}

}  // namespace

template <class T>
void channel_moments(View<const T> x, View<Compute<T>> mean, View<Compute<T>> variance) {
  if (x.shape[0] * x.shape[2] == 0) {
    fill<T>(mean, NAN);
    return fill<T>(variance, NAN);
  }
  const auto& table = elements<T>();
  const ChannelBlocks blocks(x);
  const auto moments = channel_parts<Moments>(
      blocks, 0, blocks.C, blocks.channels_at_once(x),
      [&](int64_t c, int64_t channels, const ChannelBlocks::Block& b, NormSums* found) {
        T buffer[kBlockLength];
        table.moments(blocks.tile(b, channels), blocks.rows(x, c, b, buffer), found);
      },
      [](const NormSums& found, double count) { return Moments{count, found.first, found.second}; });
  for (int64_t c = 0; c < blocks.C; ++c) {
    mean.data[c * mean.stride[0]] = static_cast<T>(moments[c].mean);
    variance.data[c * variance.stride[0]] = static_cast<T>(moments[c].square_sum / moments[c].count);
  }
}

template <class T>
void channel_affine(View<const T> x, View<const Compute<T>> scale, View<const Compute<T>> shift, View<T> y) {
  const auto affine = elements<T>().unary[static_cast<int>(UnaryOp::affine)];
  const auto broadcast = [&](const View<const T>& v) {
    View<const T> b = x;
    b.data = v.data;
    for (int i = 0; i < 3; ++i) b.stride[i] = i == 1 ? v.stride[0] : 0;
    return b;
  };
  const auto loop = strided_loop(false, y, x, broadcast(scale), broadcast(shift));
  const int64_t to = loop.inner_stride(0), from = loop.inner_stride(1), by = loop.inner_stride(2),
                plus = loop.inner_stride(3);
  const bool along_row = to == 1 && from == 1 && by == 0 && plus == 0;
  loop.parallel_runs([&](int64_t n, const int64_t* at) {
    const T *input = x.data + at[1], *s = scale.data + at[2], *t = shift.data + at[3];
    T* output = y.data + at[0];
    if (along_row) return affine(input, output, n, static_cast<double>(*s), static_cast<double>(*t));
    for (int64_t i = 0; i < n; ++i) output[i * to] = input[i * from] * s[i * by] + t[i * plus];
  });
}

namespace {

// Both passes for a few channels at a time, which stay in the cache between them; y is empty without a gate.
template <class T>
void norm_backward(View<const T> x, View<const T> y, View<const T> ct, View<const Compute<T>> mean,
                   View<const Compute<T>> rstd, View<const Compute<T>> weight, View<T> gx, View<Compute<T>> gweight,
                   View<Compute<T>> gbias, Gate gate, double slope, double scale) {
  const auto& table = elements<T>();
  const ChannelBlocks blocks(x);
  const int64_t C = blocks.C, size = blocks.N * blocks.L;
  const int64_t at_once =
      gate == Gate::none ? blocks.channels_at_once(x, ct, gx) : blocks.channels_at_once(x, y, ct, gx);
  const auto at = [](const auto& v, int64_t c) { return static_cast<double>(v.data[c * v.stride[0]]); };
  const auto with_block = [&](int64_t c, int64_t channels, const ChannelBlocks::Block& b, auto&& run) {
    T buffers[3][kBlockLength];
    double means[kNormChannels];
    for (int64_t i = 0; i < channels; ++i) means[i] = at(mean, c + i);
    const NormRows<const T> outputs = gate == Gate::none ? NormRows<const T>{} : blocks.rows(y, c, b, buffers[0]);
    run(NormOperands<T>{blocks.rows(x, c, b, buffers[1]), outputs, blocks.rows(ct, c, b, buffers[2]), means, slope,
                        scale});
  };
  const auto both_passes = [&](int64_t first, int64_t last) {
    const auto sums = channel_parts<GradientSums>(
        blocks, first, last, at_once,
        [&](int64_t c, int64_t channels, const ChannelBlocks::Block& b, NormSums* found) {
          with_block(c, channels, b, [&](const NormOperands<T>& operands) {
            table.norm_sums[static_cast<int>(gate)](blocks.tile(b, channels), operands, found);
          });
        },
        [](const NormSums& found, double) { return GradientSums{found.first, found.second}; });
    // gx = weight*rstd*(ct - sum(ct)/M - (x - mean)*rstd^2*sum(ct*(x - mean))/M)
    const double M = static_cast<double>(size);
    std::vector<NormFactors> factors(static_cast<size_t>(last - first));
    for (int64_t c = first; c < last; ++c) {
      const GradientSums& s = sums[c - first];
      const double r = at(rstd, c), a = at(weight, c) * r;
      gbias.data[c * gbias.stride[0]] = static_cast<T>(s.ct);
      gweight.data[c * gweight.stride[0]] = static_cast<T>(s.ct_x * r);
      factors[c - first] = {a, -a * r * r * s.ct_x / M, -a * s.ct / M};
    }
    blocks.each(first, last, at_once, [&](int64_t c, int64_t channels, int64_t b) {
      const ChannelBlocks::Block block = blocks.block(b);
      T buffer[kBlockLength];
      with_block(c, channels, block, [&](const NormOperands<T>& operands) {
        blocks.write(gx, c, block, buffer, [&](const NormRows<T>& to) {
          table.norm_gradient[static_cast<int>(gate)](blocks.tile(block, channels), operands, &factors[c - first], to);
        });
      });
    });
  };
  const int64_t tiles = (C + at_once - 1) / at_once;
  const int64_t bytes = at_once * 4 * size * static_cast<int64_t>(sizeof(T));
  const int64_t together = std::max<int64_t>(1, kGroupBytes / std::max<int64_t>(1, bytes));
  const auto group = [&](int64_t i) { both_passes(i * together * at_once, std::min(C, (i + 1) * together * at_once)); };
  const int64_t groups = (tiles + together - 1) / together;
  if (bytes <= kGroupBytes) return parallel_for(groups, group);
  for (int64_t i = 0; i < groups; ++i) group(i);
}

}  // namespace

template <class T>
void batch_norm_backward(View<const T> x, View<const T> ct, View<const Compute<T>> mean, View<const Compute<T>> rstd,
                         View<const Compute<T>> weight, View<T> gx, View<Compute<T>> gweight, View<Compute<T>> gbias) {
  norm_backward<T>(x, {}, ct, mean, rstd, weight, gx, gweight, gbias, Gate::none, 1.0, 1.0);
}

template <class T>
void norm_epilogue_backward(View<const T> x, View<const T> y, View<const T> ct, View<const Compute<T>> mean,
                            View<const Compute<T>> rstd, View<const Compute<T>> weight, View<T> gx,
                            View<Compute<T>> gweight, View<Compute<T>> gbias, double slope, double p) {
  norm_backward(x, y, ct, mean, rstd, weight, gx, gweight, gbias, p > 0.0 ? Gate::mark : Gate::sign, slope,
                p > 0.0 ? dropout_scale(p) : 1.0);
}

#define GK_INSTANTIATE(T)                                                                                            \
  template void channel_moments<T>(View<const T>, View<T>, View<T>);                                                 \
  template void channel_affine<T>(View<const T>, View<const T>, View<const T>, View<T>);                             \
  template void batch_norm_backward<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>,    \
                                       View<T>, View<T>, View<T>);                                                   \
  template void norm_epilogue_backward<T>(View<const T>, View<const T>, View<const T>, View<const T>, View<const T>, \
                                          View<const T>, View<T>, View<T>, View<T>, double, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
