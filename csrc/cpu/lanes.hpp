// Which cells a convolution reads, and how (image, sub-volume) pairs fill the lanes of a vector.
// Both directions are one gather: out[n, o, first + every*m] = sum over c, taps of w[o, c, k] * in[n, c, t*m + e_k] on
// every axis; conv has one phase (t = stride), conv_transpose one phase for each residue modulo the stride (t = 1).
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "../core/geometry.hpp"
#include "../core/view.hpp"
#include "conv_table.hpp"

namespace gk::cpu {

struct Tap {
  int64_t k;  // index into the kernel's axis
  int64_t e;  // coordinate of the cell that output 0 reads
  // Set by Axis::lay_out: the same as a cell of the packed axis, and the outputs of a sub-volume that it serves; the
  // others, in every sub-volume, see only padding through it.
  int64_t cell, first, last;

  bool serves(int64_t begin, int64_t end) const { return first < end && begin < last; }
};

struct Phase {
  int64_t first, every, outputs;
  std::vector<Tap> taps;  // only those that see a cell of the input for some output
};

struct Axis {
  int64_t in = 0;   // extent of the input
  int64_t out = 0;  // extent of the output
  int64_t t = 1;    // input cells between adjacent outputs
  std::vector<Phase> phases;

  // The packed window of one sub-volume: its cells are the coordinates t*start + cell_at[i].
  int64_t cuts = 1, sub = 0;  // sub-volumes, and outputs (of the largest phase) in each
  int64_t step = 1;           // packed cells between adjacent outputs
  int64_t run = 0;            // cells [0, run) are consecutive coordinates
  std::vector<int64_t> cell_at;

  int64_t cells() const { return static_cast<int64_t>(cell_at.size()); }
  int64_t outputs() const;  // of the largest phase
  // Window of a sub-volume with that many outputs, without laying it out.
  int64_t window(int64_t outputs) const;
  // Cuts the axis and orders the cells; `unit_step`: adjacent outputs read adjacent cells, whatever t is.
  void lay_out(int64_t cut_count, bool unit_step);

 private:
  void find_served_outputs();
};

typedef std::array<Axis, 3> Axes;

Axes gather_axes(const ConvGeometry& g);             // open slot y: in = x, out = y
Axes transposed_gather_axes(const ConvGeometry& g);  // open slot x: in = y, out = x
Axes identity_axes(const ConvGeometry& g);           // every output reads itself: y packed as it is

// The (output, tap) pairs of an axis, and the part of them that read the input; the others cost nothing while the axis
// is uncut. Where tiles of so many outputs share their taps, one output that reads the input is enough for its tile.
double tap_outputs(const Axis& axis);
double served_part(const Axis& axis, int64_t tile = 1);

// Do outputs that follow each other in a row read cells that do, and are those of every axis one phase?
bool rows_adjoin(const Axes& axes);

// Does every output read the input through some tap?
bool every_output_served(const Axes& axes);

// Weights by slot: element (group, output, input, kd, kh, kw).
template <class T>
struct Weights {
  const T* data;
  int64_t group, output, input;
  int64_t tap[3];
};

// w(O, C/groups, KD, KH, KW) for open slot y and for open slot x.
template <class T>
Weights<T> conv_weights(const View<const T>& w, const ConvGeometry& g) {
  const int64_t group = g.out_channels / g.groups * w.stride[0];
  return {w.data, group, w.stride[0], w.stride[1], {w.stride[2], w.stride[3], w.stride[4]}};
}
template <class T>
Weights<T> conv_transpose_weights(const View<const T>& w, const ConvGeometry& g) {
  Weights<T> weights = conv_weights(w, g);
  std::swap(weights.output, weights.input);
  return weights;
}

// One block of output channels of a group as (input, tap, output of the tile), zeros for those that it lacks.
template <class T>
void pack_block(const Weights<T>& w, int64_t group, const ChannelBlock& block, int64_t inputs,
                const std::vector<Tap>& taps_d, const std::vector<Tap>& taps_h, const std::vector<Tap>& taps_w,
                T* dst) {
  const T* from = w.data + group * w.group + block.first * w.output;
  for (int64_t c = 0; c < inputs; ++c, from += w.input)
    for (const Tap& d : taps_d)
      for (const Tap& h : taps_h)
        for (const Tap& k : taps_w) {
          const T* at = from + d.k * w.tap[0] + h.k * w.tap[1] + k.k * w.tap[2];
          for (int o = 0; o < block.tile; ++o) *dst++ = o < block.valid ? at[o * w.output] : T(0);
        }
}

// Images [first, first + images) in lanes: unit u is sub-volume u % cuts of image first + u / cuts.
struct LaneGroup {
  int64_t first, images;
  std::array<int64_t, 3> cuts;

  int64_t units() const { return images * cuts[0] * cuts[1] * cuts[2]; }
  int64_t blocks(int lanes) const { return (units() + lanes - 1) / lanes; }
};

// Whole vectors of images first; the rest, if any, in sub-volumes that leave the fewest lanes idle.
// `work` is the multiply-adds of one output position relative to those of packing one cell.
std::vector<LaneGroup> lane_groups(int64_t batch, int lanes, const Axes& axes, double work);

// What lane l of a block holds. image < 0: nothing.
struct Unit {
  int64_t image = -1;
  std::array<int64_t, 3> start{};  // first output (of any phase) on each axis
};
std::vector<Unit> units_of_block(const LaneGroup& group, int64_t block, int lanes, const Axes& axes);

// Packs rows [first_row, last_row) of channel c, window plane d of `in` (N, C, D, H, W): dst(rows, cells of W) of
// vectors `stride` elements apart, zero outside `in`.
template <class T>
void pack_rows(const View<const T>& in, const Axes& axes, const std::vector<Unit>& units, int64_t c, int64_t d,
               int64_t first_row, int64_t last_row, T* dst, int64_t stride);

// dst[i] = row[from + w.cell_at[i]] of a row of the input whose cells lie `stride` apart, zero outside it.
template <class T>
void copy_cells(const T* row, int64_t stride, const Axis& w, int64_t from, T* dst) {
  for (int64_t i = 0; i < w.cells(); ++i) {
    const int64_t at = from + w.cell_at[i];
    dst[i] = at >= 0 && at < w.in ? row[at * stride] : T(0);
  }
}

template <class T>
void pack_plane(const View<const T>& in, const Axes& axes, const std::vector<Unit>& units, int64_t c, int64_t d, T* dst,
                int64_t stride) {
  pack_rows(in, axes, units, c, d, 0, axes[1].cells(), dst, stride);
}

}  // namespace gk::cpu
