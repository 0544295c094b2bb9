// Plans of the FFT, and the transforms of whole planes: two real rows make one complex transform along W, then the
// columns of the plane are transformed along H into their place in the spectrum.
#include "fft_volume.hpp"

#include <algorithm>
#include <cmath>

#include "conv_table.hpp"
#include "parallel.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kRows = 4;  // rows that pass through the first-level cache together, an even number
constexpr int kRadices[] = {8, 7, 5, 4, 3, 2};
constexpr double kPi = 3.14159265358979323846;

std::vector<int> fft_factors(int64_t n) {
  std::vector<int> factors;
  for (const int f : kRadices)
    for (; n % f == 0; n /= f) factors.push_back(f);
  if (n != 1) factors.clear();
  return factors;
}

// Rows [h, h + rows) of plane d of line i: (row, W, lane).
template <class T>
void pack_rows(const LaneVolumes<const T>& v, int64_t i, int lanes, int64_t d, int64_t h, int64_t rows, T* plain,
               T* dst) {
  const int64_t width = v.extent[2], count = rows * width;
  const bool run = v.stride[2] == 1 && (rows == 1 || v.stride[1] == width);
  const T* from[64];
  for (int l = 0; l < lanes; ++l) {
    const T* base = v.base[i * lanes + l];
    T* copy = plain + l * count;
    from[l] = copy;
    if (!base) {
      std::fill_n(copy, count, T(0));
      continue;
    }
    base += d * v.stride[0] + h * v.stride[1];
    if (run) {
      from[l] = base;
      continue;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t x = 0; x < width; ++x) *copy++ = base[r * v.stride[1] + x * v.stride[2]];
  }
  conv_table<T>().interleave(from, count, dst, lanes);
}

template <class T>
void unpack_rows(const T* src, const LaneVolumes<T>& v, int64_t i, int lanes, int64_t d, int64_t h, int64_t rows,
                 T* plain) {
  const int64_t width = v.extent[2], count = rows * width;
  const bool run = v.stride[2] == 1 && (rows == 1 || v.stride[1] == width);
  T* to[64];
  for (int l = 0; l < lanes; ++l) {
    T* base = v.base[i * lanes + l];
    to[l] = run && base ? base + d * v.stride[0] + h * v.stride[1] : plain + l * count;
  }
  conv_table<T>().deinterleave(src, lanes, count, to);
  if (run) return;
  for (int l = 0; l < lanes; ++l) {
    T* base = v.base[i * lanes + l];
    if (!base) continue;
    base += d * v.stride[0] + h * v.stride[1];
    const T* copy = to[l];
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t x = 0; x < width; ++x) base[r * v.stride[1] + x * v.stride[2]] = *copy++;
  }
}

}  // namespace

int64_t fft_passes(int64_t n) {
  int64_t passes = 0;
  for (const int f : kRadices)
    for (; n % f == 0; n /= f) ++passes;
  return n == 1 ? passes : 0;
}

int64_t fft_length(int64_t least) {
  if (least > kLongestFft) return 0;
  int64_t best = 0, cost = 0;
  for (int64_t n = std::max<int64_t>(1, least); n <= least + least / 4 + 8; ++n) {
    const int64_t passes = fft_passes(n);
    if (n > 1 && passes == 0) continue;
    const int64_t here = n * (4 + passes);  // a pass against all else that grows with the length
    if (best == 0 || here < cost) best = n, cost = here;
  }
  return best;
}

template <class T>
OwnedFftPlan<T>::OwnedFftPlan(int64_t n, bool identity) {
  const std::vector<int> factors = identity ? std::vector<int>() : fft_factors(n);
  plan_.n = n;
  int64_t s = 1;
  std::vector<int64_t> begins;
  for (const int radix : factors) {
    const int64_t length = n / s, m = length / radix;
    begins.push_back(static_cast<int64_t>(twiddles_.size()));
    for (int64_t p = 0; p < m; ++p)
      for (int64_t j = 1; j < radix; ++j) {
        const double angle = -2 * kPi * static_cast<double>(p * j) / static_cast<double>(length);
        twiddles_.push_back(static_cast<T>(std::cos(angle)));
        twiddles_.push_back(static_cast<T>(std::sin(angle)));
      }
    plan_.pass[plan_.passes++] = {radix, m, s, nullptr};
    s *= radix;
  }
  for (int i = 0; i < plan_.passes; ++i) plan_.pass[i].twiddles = twiddles_.data() + begins[i];
}

template <class T>
void VolumeFft<T>::forward(const LaneVolumes<const T>& in, int64_t lines, const Spectrum<T>& out) const {
  const FftTable<T>& table = fft_table<T>();
  const int L = lanes_;
  const int64_t vector = 2 * L, nw = w_.get().n, nh = h_.get().n, frequencies = nw / 2 + 1;
  const int64_t row = (frequencies | 1) * vector, width = in.extent[2], height = in.extent[1], depth = in.extent[0];
  parallel_for(lines * depth, [&](int64_t task) {
    const int64_t line = task / depth, d = task % depth;
    Scratch<T> packed(kRows * width * L), plain(kRows * width * L), z(nw * vector), rows(height * row),
        work(2 * std::max(nw, nh) * vector);
    for (int64_t h = 0; h < height; h += kRows) {
      const int64_t count = std::min(kRows, height - h);
      pack_rows(in, line, L, d, h, count, plain.get(), packed.get());
      if (count % 2) std::fill_n(packed.get() + count * width * L, width * L, T(0));
      for (int64_t i = 0; i < count; i += 2) {
        const T* pair = packed.get() + i * width * L;
        table.transform(w_.get(), fft_line(pair, width * L, L, in.first[2], in.first[2] + width),
                        fft_line(z.get(), L, vector, 0, nw), work.get());
        T* a = rows.get() + (h + i) * row;
        table.split(z.get(), nw, a, i + 1 < count ? a + row : nullptr);
      }
    }
    for (int64_t k = 0; k < frequencies; ++k)
      table.transform(
          h_.get(),
          fetching(fft_line<const T>(rows.get() + k * vector, L, row, in.first[1], in.first[1] + height), vector),
          fetching(fft_line(out.at(k, 0, line, d), L, out.h_stride(), 0, nh, out.large()), vector), work.get());
    table.settle();
  });
}

template <class T>
void VolumeFft<T>::inverse(const Spectrum<T>& in, int64_t lines, const LaneVolumes<T>& out, T scale) const {
  const FftTable<T>& table = fft_table<T>();
  const int L = lanes_;
  const int64_t vector = 2 * L, nw = w_.get().n, nh = h_.get().n, frequencies = nw / 2 + 1;
  const int64_t row = (frequencies | 1) * vector, width = out.extent[2], height = out.extent[1], depth = out.extent[0];
  parallel_for(lines * depth, [&](int64_t task) {
    const int64_t line = task / depth, d = task % depth;
    Scratch<T> packed(kRows * width * L), plain(kRows * width * L), z(nw * vector), rows(height * row),
        work(2 * std::max(nw, nh) * vector);
    for (int64_t k = 0; k < frequencies; ++k)
      table.transform(
          h_.get(),
          exchanged(fetching(fft_line<const T>(in.at(k, 0, line, d), L, in.h_stride(), 0, nh), in.ahead_in_plane())),
          exchanged(fft_line(rows.get() + k * vector, L, row, out.first[1], out.first[1] + height)), work.get());
    for (int64_t h = 0; h < height; h += kRows) {
      const int64_t count = std::min(kRows, height - h);
      for (int64_t i = 0; i < count; i += 2) {
        const T* a = rows.get() + (h + i) * row;
        table.join(a, i + 1 < count ? a + row : nullptr, scale, nw, z.get());
        T* pair = packed.get() + i * width * L;
        table.transform(w_.get(), exchanged(fft_line<const T>(z.get(), L, vector, 0, nw)),
                        exchanged(fft_line(pair, width * L, L, out.first[2], out.first[2] + width)), work.get());
      }
      unpack_rows(packed.get(), out, line, L, d, h, count, plain.get());
    }
  });
}

#define GK_INSTANTIATE(T)         \
  template class OwnedFftPlan<T>; \
  template class VolumeFft<T>;
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
