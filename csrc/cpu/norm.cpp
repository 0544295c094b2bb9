// Batch normalisation over (N, L) for each channel of x(N, C, L). Moments: two passes over blocks that stay in the
// first cache, combined pairwise by the formula of Chan, Golub and LeVeque (1979), so a large mean costs no digits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "elements.hpp"
#include "epilogue.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kBlockLength = 4096;  // elements: 16 KiB of float

// A channel cut into blocks: pieces of one row if rows are long, else several whole rows.
struct ChannelBlocks {
  int64_t N, L, piece, pieces_per_row, rows_per_block, count;

  ChannelBlocks(int64_t n, int64_t l) : N(n), L(l) {
    const bool long_rows = L >= kBlockLength / 8;
    pieces_per_row = long_rows ? (L + kBlockLength - 1) / kBlockLength : 1;
    piece = (L + pieces_per_row - 1) / pieces_per_row;
    rows_per_block = long_rows ? 1 : std::max<int64_t>(1, kBlockLength / std::max<int64_t>(1, L));
    count = (N + rows_per_block - 1) / rows_per_block * pieces_per_row;
  }

  struct Place {
    int64_t offset, rows, n;
    bool contiguous;
    int64_t size() const { return rows * n; }
  };

  template <class T>
  Place place(const View<T>& x, int64_t c, int64_t b) const {
    const int64_t row = b / pieces_per_row * rows_per_block, first = b % pieces_per_row * piece;
    const int64_t rows = std::min(rows_per_block, N - row), n = std::min(piece, L - first);
    const bool contiguous = (n == 1 || x.stride[2] == 1) && (rows == 1 || x.stride[0] == n);
    return {row * x.stride[0] + c * x.stride[1] + first * x.stride[2], rows, n, contiguous};
  }

  // The elements of block b of channel c, contiguous: in place, or gathered into `buffer` (kBlockLength).
  template <class T>
  const T* gather(const View<const T>& x, int64_t c, int64_t b, T* buffer) const {
    const Place p = place(x, c, b);
    if (p.contiguous) return x.data + p.offset;
    for (int64_t r = 0; r < p.rows; ++r)
      for (int64_t i = 0; i < p.n; ++i) buffer[r * p.n + i] = x.data[p.offset + r * x.stride[0] + i * x.stride[2]];
    return buffer;
  }

  // Puts back what was computed into `buffer`.
  template <class T>
  void scatter(const T* buffer, const View<T>& y, int64_t c, int64_t b) const {
    const Place p = place(y, c, b);
    for (int64_t r = 0; r < p.rows; ++r)
      for (int64_t i = 0; i < p.n; ++i) y.data[p.offset + r * y.stride[0] + i * y.stride[2]] = buffer[r * p.n + i];
  }

  int64_t blocks_per_task() const {
    return std::max<int64_t>(1, 8 * kBlockLength / std::max<int64_t>(1, rows_per_block * piece));
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

// make(c, block) for every block of every channel in parallel, then one joined part per channel.
template <class P, class F>
std::vector<P> channel_parts(int64_t channels, const ChannelBlocks& blocks, F&& make) {
  std::vector<P> parts(static_cast<size_t>(channels * blocks.count)), joined(static_cast<size_t>(channels));
  parallel_chunks(channels * blocks.count, blocks.blocks_per_task(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) parts[i] = make(i / blocks.count, i % blocks.count);
  });
  for (int64_t c = 0; c < channels; ++c) {
    join_pairwise(parts.data() + c * blocks.count, blocks.count);
    if (blocks.count > 0) joined[c] = parts[c * blocks.count];
  }
  return joined;
}

}  // namespace

template <class T>
void channel_moments(View<const T> x, View<T> mean, View<T> variance) {
  const auto& table = elements<T>();
  const ChannelBlocks blocks(x.shape[0], x.shape[2]);
  const auto moments = channel_parts<Moments>(x.shape[1], blocks, [&](int64_t c, int64_t b) {
    T buffer[kBlockLength];
    const T* values = blocks.gather(x, c, b, buffer);
    const int64_t n = blocks.place(x, c, b).size();
    Moments m;
    m.count = static_cast<double>(n);
    table.moments(values, n, &m.mean, &m.square_sum);
    return m;
  });
  for (int64_t c = 0; c < x.shape[1]; ++c) {
    const bool empty = x.shape[0] * x.shape[2] == 0;
    mean.data[c * mean.stride[0]] = empty ? static_cast<T>(NAN) : static_cast<T>(moments[c].mean);
    variance.data[c * variance.stride[0]] =
        empty ? static_cast<T>(NAN) : static_cast<T>(moments[c].square_sum / moments[c].count);
  }
}

template <class T>
void channel_affine(View<const T> x, View<const T> scale, View<const T> shift, View<T> y) {
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

// cotangents(c, block, buffer): those of the normalised elements of a block, contiguous, perhaps in the buffer.
template <class T, class F>
void norm_backward(View<const T> x, View<const T> mean, View<const T> rstd, View<const T> weight, View<T> gx,
                   View<T> gweight, View<T> gbias, const ChannelBlocks& blocks, F&& cotangents) {
  const auto& table = elements<T>();
  const int64_t C = x.shape[1];
  const auto at = [](const auto& v, int64_t c) { return static_cast<double>(v.data[c * v.stride[0]]); };
  const auto sums = channel_parts<GradientSums>(C, blocks, [&](int64_t c, int64_t b) {
    T buffer_x[kBlockLength], buffer_ct[kBlockLength];
    const T* values = blocks.gather(x, c, b, buffer_x);
    const T* cts = cotangents(c, b, buffer_ct);
    GradientSums s;
    table.centred_sums(values, cts, blocks.place(x, c, b).size(), at(mean, c), &s.ct, &s.ct_x);
    return s;
  });
  for (int64_t c = 0; c < C; ++c) {
    gbias.data[c * gbias.stride[0]] = static_cast<T>(sums[c].ct);
    gweight.data[c * gweight.stride[0]] = static_cast<T>(sums[c].ct_x * at(rstd, c));
  }
  // gx = weight*rstd*(ct - sum(ct)/M - (x - mean)*rstd^2*sum(ct*(x - mean))/M)
  const double M = static_cast<double>(x.shape[0] * x.shape[2]);
  parallel_chunks(C * blocks.count, blocks.blocks_per_task(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i / blocks.count, b = i % blocks.count;
      T buffer_x[kBlockLength], buffer_ct[kBlockLength], buffer_gx[kBlockLength];
      const T* values = blocks.gather(x, c, b, buffer_x);
      const T* cts = cotangents(c, b, buffer_ct);
      const auto target = blocks.place(gx, c, b);
      T* output = target.contiguous ? gx.data + target.offset : buffer_gx;
      const double r = at(rstd, c), a = at(weight, c) * r;
      const double slope = -a * r * r * sums[c].ct_x / M, constant = -a * sums[c].ct / M;
      table.batch_norm_gradient(values, cts, output, target.size(), at(mean, c), a, slope, constant);
      if (!target.contiguous) blocks.scatter(buffer_gx, gx, c, b);
    }
  });
}

}  // namespace

template <class T>
void batch_norm_backward(View<const T> x, View<const T> ct, View<const T> mean, View<const T> rstd,
                         View<const T> weight, View<T> gx, View<T> gweight, View<T> gbias) {
  const ChannelBlocks blocks(x.shape[0], x.shape[2]);
  norm_backward(x, mean, rstd, weight, gx, gweight, gbias, blocks,
                [&](int64_t c, int64_t b, T* buffer) { return blocks.gather(ct, c, b, buffer); });
}

template <class T>
void norm_epilogue_backward(View<const T> x, View<const T> y, View<const T> ct, View<const T> mean, View<const T> rstd,
                            View<const T> weight, View<T> gx, View<T> gweight, View<T> gbias, double slope, double p) {
  const auto& table = elements<T>();
  const ChannelBlocks blocks(x.shape[0], x.shape[2]);
  norm_backward(x, mean, rstd, weight, gx, gweight, gbias, blocks, [&](int64_t c, int64_t b, T* buffer) {
    T buffer_y[kBlockLength], buffer_ct[kBlockLength];
    const T *reference = blocks.gather(y, c, b, buffer_y), *given = blocks.gather(ct, c, b, buffer_ct);
    const int64_t n = blocks.place(x, c, b).size();
    if (p > 0.0)
      table.gate_marked(reference, given, buffer, n, slope, dropout_scale(p));
    else
      table.gate(reference, given, buffer, n, slope);
    return static_cast<const T*>(buffer);
  });
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
