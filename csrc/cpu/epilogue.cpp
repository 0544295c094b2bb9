// Bias, activation and dropout in one pass over the output of a convolution or a product, and their gradient with the
// sum of the bias in one pass over the cotangent: what is read is still in the first cache when it is used again.
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
};

double kept_scale(double p) { return p < 1.0 ? 1.0 / (1.0 - p) : 0.0; }

}  // namespace

template <class T>
void epilogue(View<T> y, View<const T> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  const auto& table = elements<T>();
  const Channels channels(y);
  const bool biased = bias.size() != 0;
  const auto threshold = static_cast<uint32_t>(std::ceil(p * 16777216.0));  // uniform >= p, on 24-bit integers
  parallel_chunks(y.size(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block += kBlock) {
      const int64_t stop = std::min(end, block + kBlock);
      if (!biased && slope != 1.0) table.bias_act(y.data + block, T(0), stop - block, slope);
      for (int64_t i = block; biased && i < stop;) {
        int64_t n;
        if (channels.rows()) {
          n = std::min(channels.count - i % channels.count, stop - i);
          table.bias_act_each(y.data + i, bias.data + i % channels.count, n, slope);
        } else {
          n = std::min(channels.length - i % channels.length, stop - i);
          table.bias_act(y.data + i, bias.data[i / channels.length % channels.count], n, slope);
        }
        i += n;
      }
      if (p > 0.0)
        table.dropout_marked(y.data + block, stop - block, threshold, kept_scale(p), seed,
                             offset + static_cast<uint64_t>(block / 4));
    }
  });
}

template <class T>
void epilogue_backward(View<const T> y, View<const T> ct, View<T> gx, View<T> gbias, double slope, double p) {
  const auto& table = elements<T>();
  const Channels channels(y);
  const bool biased = gbias.size() != 0;
  const int64_t size = y.size(), C = channels.count, unit = channels.rows() ? C : channels.length;
  if (biased) std::fill(gbias.data, gbias.data + C, T(0));
  if (size == 0) return;
  const double scale = kept_scale(p);
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

#define GK_INSTANTIATE(T)                                                                \
  template void epilogue<T>(View<T>, View<const T>, double, double, uint64_t, uint64_t); \
  template void epilogue_backward<T>(View<const T>, View<const T>, View<T>, View<T>, double, double);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
