// Fourier transforms of real volumes with one volume per vector lane: plain strided arrays to spectra and back along W
// and H. The transforms along D belong to the columns of a spectrum, where its user has them in the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/view.hpp"
#include "isa/fft.hpp"
#include "isa/table.hpp"
#include "scratch.hpp"

namespace gk::cpu {

GK_ISA_TABLE(FftTable<float>, fft_float)
GK_ISA_TABLE(FftTable<double>, fft_double)

template <class T>
const FftTable<T>& fft_table();
template <>
inline const FftTable<float>& fft_table<float>() {
  return fft_float();
}
template <>
inline const FftTable<double>& fft_table<double>() {
  return fft_double();
}

constexpr int64_t kLongestFft = 1024;

// The length n >= least with factors 2, 3, 5, 7 that costs least; 0 if least > kLongestFft.
int64_t fft_length(int64_t least);
// Passes of its transform over the data.
int64_t fft_passes(int64_t n);

template <class T>
class OwnedFftPlan {
 public:
  // identity: leaves the n elements as they are.
  explicit OwnedFftPlan(int64_t n, bool identity = false);
  OwnedFftPlan(const OwnedFftPlan&) = delete;
  OwnedFftPlan& operator=(const OwnedFftPlan&) = delete;

  const FftPlan<T>& get() const { return plan_; }

 private:
  FftPlan<T> plan_{};
  std::vector<T> twiddles_;
};

// Volumes of one shape: line i holds one in each lane. Cell 0 of an axis is element first[axis] of its transform.
template <class T>
struct LaneVolumes {
  std::vector<T*> base;  // (line, lane); null: read as zeros, not written
  int64_t extent[3], stride[3], first[3];
};

// How a spectrum is read: column after column along D, or plane after plane.
enum class ReadBy { columns, planes };

// Complex vectors (w, h, line, plane). A spectrum that outgrows the caches is written past them, and then it matters
// little where; but memory reads fast only in sequence. So it lies as it is read: as columns (w, h, line, plane) or as
// planes (line, plane, w, h). Smaller ones lie as columns with kTogether frequencies along W side by side, so that who
// writes beside a vector still finds its lines of the cache. Vectors that are written together (h or plane after
// plane) are not a power of two apart.
template <class T>
class Spectrum {
 public:
  static constexpr int64_t kTogether = 4;
  static constexpr int64_t kLarge = int64_t(8) << 20;

  Spectrum(int64_t w, int64_t h, int64_t lines, int64_t depth, int lanes, ReadBy order)
      : vector_(2 * lanes),
        large_(elements(w, h, lines, depth, lanes) * static_cast<int64_t>(sizeof(T)) > kLarge),
        together_(large_ ? 1 : kTogether),
        data_(elements(w, h, lines, depth, lanes)) {
    if (large_ && order == ReadBy::planes) {
      h_ = vector_, group_ = h * h_, plane_ = (w * h | 1) * vector_, line_ = depth * plane_;
    } else {
      plane_ = together_ * vector_, line_ = depth * plane_, h_ = lines * line_ + kGap * vector_, group_ = h * h_;
    }
  }

  // Enough for any order.
  static int64_t elements(int64_t w, int64_t h, int64_t lines, int64_t depth, int lanes) {
    const int64_t columns = (w + kTogether - 1) / kTogether * kTogether * h * (lines * depth + kGap);
    return std::max(columns, (w * h | 1) * lines * depth) * 2 * lanes;
  }

  T* at(int64_t w, int64_t h, int64_t line, int64_t plane) const {
    return data_.get() + w / together_ * group_ + h * h_ + line * line_ + plane * plane_ + w % together_ * vector_;
  }
  // Larger than what the caches keep until it is read.
  bool large() const { return large_; }
  int64_t h_stride() const { return h_; }
  int64_t plane_stride() const { return plane_; }
  // From a line of a column to what its reader wants soon.
  int64_t ahead_in_column() const { return large_ ? kLinesAhead * line_ : vector_; }
  int64_t ahead_in_plane() const { return large_ ? kLinesAhead * group_ : vector_; }

 private:
  static constexpr int64_t kGap = 3, kLinesAhead = 2;

  int64_t vector_;
  bool large_;
  int64_t together_, group_, h_, line_, plane_;
  Scratch<T> data_;
};

// A range of a line of complex vectors, in the order that the transform and its inverse want.
template <class T>
FftLine<T> fft_line(T* data, int64_t part, int64_t stride, int64_t first, int64_t last, bool stream = false) {
  return {data, data + part, stride, first, last, stream, 0};
}
template <class T>
FftLine<T> fetching(FftLine<T> line, int64_t ahead) {
  line.ahead = ahead;
  return line;
}
template <class T>
FftLine<T> exchanged(const FftLine<T>& line) {
  return {line.im, line.re, line.stride, line.first, line.last, line.stream, line.ahead};
}

template <class T>
class VolumeFft {
 public:
  VolumeFft(int64_t w, int64_t h, int lanes) : w_(w), h_(h), lanes_(lanes) {}

  // Twice the transform along W and H of `lines` lines.
  void forward(const LaneVolumes<const T>& in, int64_t lines, const Spectrum<T>& out) const;
  // Writes scale * the inverse along H and W, which is not divided by the lengths.
  void inverse(const Spectrum<T>& in, int64_t lines, const LaneVolumes<T>& out, T scale) const;

 private:
  const OwnedFftPlan<T> w_, h_;
  const int lanes_;
};

}  // namespace gk::cpu
