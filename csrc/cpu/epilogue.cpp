// Bias, activation and dropout in one pass over the output of a convolution or a product, and their gradient with the
// sum of the bias in one pass over the cotangent; activation and dropout behind a normalisation, in the pass that
// scales and shifts. What is read is still in the first cache when it is used again.
#include "epilogue.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "elements.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kBlock = 4096;  // elements that stay in the first cache; a multiple of the 4 of a Philox block
static_assert(kGrain % kBlock == 0);

// (N, C, L) as planes of one channel; (N, C), and (N, C, 1), as rows that hold every channel.
struct Channels {
  int64_t count, length;

  template <class T>
  explicit Channels(const View<T>& y) : count(y.shape[1]), length(y.rank > 2 ? y.shape[2] : 1) {
    if (count == 1) length *= y.shape[0];
  }
  bool rows() const { return length == 1; }

  // run(i, n, c) for the elements [i, i + n) of one channel c, or in rows those of the channels from c on.
  template <class F>
  void runs(int64_t begin, int64_t end, F&& run) const {
    for (int64_t i = begin; i < end;) {
      const int64_t all = rows() ? count : length, n = std::min(all - i % all, end - i);
      run(i, n, rows() ? i % count : i / length % count);
      i += n;
    }
  }
};

// fill(begin, end) for blocks that stay in the first cache, each followed by its dropout.
template <class T, class F>
void in_blocks(const View<T>& y, double p, uint64_t seed, uint64_t offset, F&& fill) {
  const auto threshold = static_cast<uint32_t>(std::ceil(p * 16777216.0));  // uniform >= p, on 24-bit integers
  parallel_chunks(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block += kBlock) {
      const int64_t stop = std::min(end, block + kBlock);
      fill(block, stop);
      if (p > 0.0)
        elements<T>().dropout_marked(y.data + block, stop - block, threshold, dropout_scale(p), seed,
                                     offset + static_cast<uint64_t>(block / 4));
    }
  });
}

}  // namespace

template <class T>
void epilogue(View<T> y, View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  const auto& table = elements<T>();
  const Channels channels(y);
  const bool biased = bias.size() != 0;
  in_blocks(y, p, seed, offset, [&](int64_t begin, int64_t end) {
    if (!biased && slope != 1.0) table.bias_act(y.data + begin, T(0), end - begin, slope);
    if (biased)
      channels.runs(begin, end, [&](int64_t i, int64_t n, int64_t c) {
        if (channels.rows())
          table.bias_act_each(y.data + i, bias.data + c, n, slope);
        else
          table.bias_act(y.data + i, bias.data[c], n, slope);
      });
  });
}

template <class T>
void norm_epilogue(View<const T> x, View<const Compute<T>> scale, View<const Compute<T>> shift, View<T> y, double slope,
                   double p, uint64_t seed, uint64_t offset) {
  const auto& table = elements<T>();
  const auto affine = table.unary[static_cast<int>(UnaryOp::affine)];
  const Channels channels(y);
  in_blocks(y, p, seed, offset, [&](int64_t begin, int64_t end) {
    channels.runs(begin, end, [&](int64_t i, int64_t n, int64_t c) {
      if (channels.rows())
        for (int64_t j = 0; j < n; ++j) y.data[i + j] = x.data[i + j] * scale.data[c + j] + shift.data[c + j];
      else
        affine(x.data + i, y.data + i, n, static_cast<double>(scale.data[c]), static_cast<double>(shift.data[c]));
    });
    if (slope != 1.0) table.bias_act(y.data + begin, T(0), end - begin, slope);
  });
}

template <class T>
void epilogue_backward(View<const T> y, View<const T> ct, View<T> gx, View<Compute<T>> gbias, double slope, double p) {
  const auto& table = elements<T>();
  const Channels channels(y);
  const bool biased = gbias.size() != 0;
  const int64_t size = y.size(), C = channels.count, unit = channels.rows() ? C : channels.length;
  if (biased) std::fill(gbias.data, gbias.data + C, T(0));
  if (size == 0) return;
  const double scale = dropout_scale(p);
  const auto gate = [&](int64_t at, int64_t n) {
    if (p > 0.0)
      table.gate_marked(y.data + at, ct.data + at, gx.data + at, n, slope, scale);
    else
      table.gate(y.data + at, ct.data + at, gx.data + at, n, slope);
  };
  // A task is some whole rows (or planes), or a piece of a plane; each has totals of its own, added in order.
  const int64_t pieces = channels.rows() ? 1 : (unit + kGrain - 1) / kGrain;
  const int64_t units = std::max<int64_t>(1, kGrain / unit), count = size / unit * pieces;
  const int64_t tasks = (count + units - 1) / units, width = channels.rows() ? C : units;
  std::vector<double> totals(static_cast<size_t>(biased ? tasks * width : 0));
  parallel_for(tasks, [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * units);
    double* total = totals.data() + task * width;
    if (channels.rows()) {
      const int64_t together = std::max<int64_t>(1, kBlock / C);
      for (int64_t row = task * units; row < end; row += together) {
        const int64_t rows = std::min(together, end - row);
        gate(row * C, rows * C);
        if (biased) table.add_rows(gx.data + row * C, rows, C, C, total);
      }
      return;
    }
    for (int64_t k = task * units; k < end; ++k, ++total) {
      const int64_t first = k / pieces * unit + k % pieces * kGrain;
      const int64_t last = std::min((k / pieces + 1) * unit, first + kGrain);
      for (int64_t i = first; i < last; i += kBlock) {
        const int64_t n = std::min(kBlock, last - i);
        gate(i, n);
        if (biased) *total += table.sum(gx.data + i, n);
      }
    }
  });
  if (!biased) return;
  std::vector<double> sums(static_cast<size_t>(C));
  if (channels.rows()) {
    for (int64_t i = 0; i < tasks * C; ++i) sums[i % C] += totals[i];
  } else {
    for (int64_t k = 0; k < count; ++k) sums[k / pieces % C] += totals[k / units * width + k % units];
  }
  for (int64_t c = 0; c < C; ++c) gbias.data[c] = static_cast<T>(sums[c]);
}

#define GK_INSTANTIATE(T)                                                                                        \
  template void epilogue<T>(View<T>, View<const T>, double, double, uint64_t, uint64_t);                         \
  template void norm_epilogue<T>(View<const T>, View<const T>, View<const T>, View<T>, double, double, uint64_t, \
                                 uint64_t);                                                                      \
  template void epilogue_backward<T>(View<const T>, View<const T>, View<T>, View<T>, double, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
