// What an FFT convolution transforms: the window of a geometry, and which volumes of its arrays lie in which lanes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/geometry.hpp"
#include "../core/view.hpp"
#include "fft_volume.hpp"

namespace gk::cpu {

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
  // Complex vectors that pass through the transforms of a volume with that many planes and rows; those of two passes
  // count once, of more (or less) in proportion with what else is done to them.
  double points(int64_t planes, int64_t rows) const {
    const int64_t lines[3] = {frequencies() * n[1], planes * frequencies(), planes * ceil_div(rows, 2)};
    double sum = 0;
    for (int i = 0; i < 3; ++i)
      sum += static_cast<double>(lines[i] * n[i]) * static_cast<double>(2 + fft_passes(n[i])) / 4;
    return sum;
  }
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

// Channels that share a vector: the smallest power of two that holds them all, or all lanes.
inline int channel_tile(int64_t channels, int lanes) {
  int tile = 1;
  while (tile < lanes && tile < channels) tile *= 2;
  return tile;
}

// In tiles of `tile` receiving channels, as FftTable::products reads them; transposed: the inputs receive.
inline Pairs tiled_pairs(int64_t outputs, int64_t inputs, int tile, bool transposed, int lanes) {
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

// Of channels `b` in turn with all channels `a` in the lanes, padded to whole tiles; a: outputs or inputs.
inline Pairs lane_pairs(int64_t as, int64_t bs, int tile, bool outputs_first, int lanes) {
  Pairs pairs;
  for (int64_t b = 0; b < bs; ++b)
    for (int64_t a = 0; a < ceil_div(as, tile) * tile; ++a)
      if (a >= as)
        pairs.add(-1, -1);
      else
        outputs_first ? pairs.add(a, b) : pairs.add(b, a);
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

template <class T>
LaneVolumes<T> pair_volumes(View<T> w, const Pairs& pairs) {
  LaneVolumes<T> v = volumes(whole(w));
  for (size_t i = 0; i < pairs.output.size(); ++i)
    v.base.push_back(pairs.output[i] < 0 ? nullptr
                                         : w.data + pairs.output[i] * w.stride[0] + pairs.input[i] * w.stride[1]);
  return v;
}

}  // namespace gk::cpu
