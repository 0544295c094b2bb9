// The plan of lanes.hpp and the packing of windows into lane layout.
#include "lanes.hpp"

#include <algorithm>
#include <limits>
#include <map>

#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr double kCutRowCost = 4;  // packing cells lane by lane against transposing whole rows, measured

int64_t floor_mod(int64_t a, int64_t b) { return (a % b + b) % b; }

// Is there an m in [0, outputs) with 0 <= t*m + e < in ?
bool sees_input(int64_t e, int64_t t, int64_t outputs, int64_t in) {
  const int64_t m = e >= 0 ? 0 : ceil_div(-e, t);
  return m < outputs && t * m + e < in;
}

int64_t all_taps(const std::vector<Phase>& phases) {
  int64_t n = 0;
  for (const Phase& p : phases) n += static_cast<int64_t>(p.taps.size());
  return n;
}

struct Range {
  int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
};

Range tap_range(const std::vector<Phase>& phases) {
  Range r;
  for (const Phase& p : phases)
    for (const Tap& tap : p.taps) r.low = std::min(r.low, tap.e), r.high = std::max(r.high, tap.e);
  return r;
}

// A window with gaps (a stride or dilation larger than the kernel): one cell for every output and tap is smaller.
bool is_sparse(const Axis& axis, int64_t outputs) {
  const Range r = tap_range(axis.phases);
  return axis.phases.size() == 1 && axis.t * (outputs - 1) + (r.high - r.low) + 1 > outputs * all_taps(axis.phases);
}

}  // namespace

int64_t Axis::outputs() const {
  int64_t n = 0;
  for (const Phase& p : phases) n = std::max(n, p.outputs);
  return n;
}

void Axis::find_served_outputs() {
  for (Phase& p : phases)
    for (Tap& tap : p.taps) {
      tap.first = sub, tap.last = 0;
      const int64_t begin = tap.e >= 0 ? 0 : ceil_div(-tap.e, t);
      const int64_t end = std::min(p.outputs, (in - 1 - tap.e) / t + 1);
      for (int64_t start = 0; start < p.outputs; start += sub) {
        const int64_t first = std::max<int64_t>(begin - start, 0), last = std::min(end - start, sub);
        if (first < last) tap.first = std::min(tap.first, first), tap.last = std::max(tap.last, last);
      }
    }
}

int64_t Axis::window(int64_t outputs) const {
  const Range r = tap_range(phases);
  if (is_sparse(*this, outputs)) return outputs * all_taps(phases);
  return t * (outputs - 1) + (r.high - r.low) + 1;
}

void Axis::lay_out(int64_t cut_count, bool unit_step) {
  cuts = cut_count;
  sub = ceil_div(outputs(), cuts);
  find_served_outputs();
  cell_at.clear();
  run = 0;
  const Range r = tap_range(phases);
  if (is_sparse(*this, sub)) {
    std::vector<Tap>& taps = phases[0].taps;
    const int64_t count = static_cast<int64_t>(taps.size());
    step = unit_step ? 1 : count;
    cell_at.resize(sub * count);
    for (int64_t k = 0; k < count; ++k) {
      taps[k].cell = unit_step ? k * sub : k;
      for (int64_t m = 0; m < sub; ++m) cell_at[taps[k].cell + m * step] = t * m + taps[k].e;
    }
    return;
  }
  const int64_t extent = t * (sub - 1) + (r.high - r.low) + 1;
  // With unit steps the cells of one residue modulo t lie together.
  const int64_t period = unit_step ? t : 1, residues = std::min(period, extent), length = ceil_div(extent, period);
  step = unit_step ? 1 : t;
  run = residues == 1 || length == 1 ? residues * length : 0;
  cell_at.resize(residues * length);
  for (int64_t i = 0; i < residues; ++i)
    for (int64_t j = 0; j < length; ++j) cell_at[i * length + j] = r.low + i + j * period;
  for (Phase& p : phases)
    for (Tap& tap : p.taps) {
      const int64_t from = tap.e - r.low;
      tap.cell = (from % period) * length + from / period;
    }
}

Axes gather_axes(const ConvGeometry& g) {
  Axes axes;
  for (int i = 0; i < 3; ++i) {
    Axis& a = axes[i];
    a.in = g.x[i], a.out = g.y[i], a.t = g.stride[i];
    Phase phase{0, 1, g.y[i], {}};
    for (int64_t k = 0; k < g.kernel[i]; ++k) {
      const int64_t e = g.dilation[i] * k - g.pad_lo[i];
      if (sees_input(e, a.t, a.out, a.in)) phase.taps.push_back({k, e, 0, 0, 0});
    }
    if (!phase.taps.empty()) a.phases.push_back(std::move(phase));
  }
  return axes;
}

Axes transposed_gather_axes(const ConvGeometry& g) {
  Axes axes;
  for (int i = 0; i < 3; ++i) {
    Axis& a = axes[i];
    a.in = g.y[i], a.out = g.x[i], a.t = 1;
    const int64_t s = g.stride[i];
    std::map<int64_t, Phase> phases;
    for (int64_t k = g.kernel[i] - 1; k >= 0; --k) {          // ascending cells: the prefetchers follow
      const int64_t shift = g.dilation[i] * k - g.pad_lo[i];  // x cell that output 0 of conv reads with this tap
      const int64_t first = floor_mod(shift, s);
      if (first >= a.out) continue;
      const int64_t outputs = ceil_div(a.out - first, s);
      const int64_t e = (first - shift) / s;
      if (!sees_input(e, 1, outputs, a.in)) continue;
      Phase& phase = phases[first];
      phase.first = first, phase.every = s, phase.outputs = outputs;
      phase.taps.push_back({k, e, 0, 0, 0});
    }
    for (auto& entry : phases) a.phases.push_back(std::move(entry.second));
  }
  return axes;
}

Axes identity_axes(const ConvGeometry& g) {
  Axes axes;
  for (int i = 0; i < 3; ++i) {
    axes[i].in = axes[i].out = g.y[i];
    axes[i].phases.push_back({0, 1, g.y[i], {{0, 0, 0, 0, 0}}});
  }
  return axes;
}

double tap_outputs(const Axis& axis) {
  double all = 0;
  for (const Phase& p : axis.phases) all += static_cast<double>(p.outputs * static_cast<int64_t>(p.taps.size()));
  return all;
}

double served_part(const Axis& axis, int64_t tile) {
  double served = 0;
  for (const Phase& p : axis.phases)
    for (const Tap& tap : p.taps) {
      const int64_t begin = tap.e >= 0 ? 0 : ceil_div(-tap.e, axis.t);
      const int64_t end = std::min(p.outputs, (axis.in - 1 - tap.e) / axis.t + 1);
      served += static_cast<double>(std::min(p.outputs, ceil_div(end, tile) * tile) - begin / tile * tile);
    }
  return served / tap_outputs(axis);
}

bool rows_adjoin(const Axes& axes) {
  for (const Axis& a : axes)
    if (a.phases.size() != 1 || a.phases[0].every != 1) return false;
  return axes[2].t == 1;
}

bool every_output_served(const Axes& axes) {
  for (const Axis& a : axes) {
    int64_t covered = 0;
    for (const Phase& p : a.phases) covered += p.outputs;
    if (covered != a.out) return false;
  }
  return true;
}

std::vector<LaneGroup> lane_groups(int64_t batch, int lanes, const Axes& axes, double work) {
  std::vector<LaneGroup> groups;
  const int64_t rest = batch % lanes, whole = batch - rest;
  if (whole > 0) groups.push_back({0, whole, {1, 1, 1}});
  if (rest == 0) return groups;
  // By axis and number of cuts: positions that are computed, cells that are packed.
  struct Cut {
    double positions, cells;
  };
  std::vector<Cut> cut[3];
  for (int i = 0; i < 3; ++i) {
    const int64_t outputs = axes[i].outputs();
    for (int64_t n = 1; n <= std::min<int64_t>(lanes, outputs); ++n) {
      const int64_t sub = ceil_div(outputs, n);
      cut[i].push_back({static_cast<double>(sub) * (n == 1 ? served_part(axes[i]) : 1),
                        static_cast<double>(axes[i].window(sub)) * (i == 2 && n > 1 ? kCutRowCost : 1)});
    }
  }
  const auto count = [&](int i) { return static_cast<int64_t>(cut[i].size()); };
  LaneGroup best{whole, rest, {1, 1, 1}};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t w = 1; w <= count(2); ++w)
    for (int64_t h = 1; h <= count(1) && w * h <= lanes; ++h)
      for (int64_t d = 1; d <= count(0) && w * h * d <= lanes; ++d) {
        const Cut &cd = cut[0][d - 1], &ch = cut[1][h - 1], &cw = cut[2][w - 1];
        const LaneGroup group{whole, rest, {d, h, w}};
        const double cost = static_cast<double>(group.blocks(lanes)) *
                            (cd.positions * ch.positions * cw.positions * work + cd.cells * ch.cells * cw.cells);
        if (cost < least) least = cost, best = group;
      }
  groups.push_back(best);
  return groups;
}

std::vector<Unit> units_of_block(const LaneGroup& group, int64_t block, int lanes, const Axes& axes) {
  std::vector<Unit> units(lanes);
  for (int l = 0; l < lanes; ++l) {
    int64_t u = block * lanes + l;
    if (u >= group.units()) break;
    for (int i = 2; i >= 0; --i) {
      units[l].start[i] = u % group.cuts[i] * axes[i].sub;
      u /= group.cuts[i];
    }
    units[l].image = group.first + u;
  }
  return units;
}

namespace {

template <class T>
void zero_vectors(T* dst, int64_t stride, int64_t count, int lanes) {
  for (int64_t i = 0; i < count; ++i) std::fill_n(dst + i * stride, lanes, T(0));
}

enum class RowCopy {
  straight,  // the cells lie in memory as wanted: rows are interleaved from the input
  picked,    // whole input rows are interleaved, then cells picked as vectors (a stride along W)
  by_lane    // every lane picks its own cells (lanes at different places of a row, gaps in memory)
};

template <class T>
RowCopy row_copy(const View<const T>& in, const Axis& w) {
  if (in.stride[4] != 1 || w.cuts != 1) return RowCopy::by_lane;
  if (w.run == w.cells()) return RowCopy::straight;
  return w.in <= 4 * w.cells() ? RowCopy::picked : RowCopy::by_lane;
}

}  // namespace

template <class T>
void pack_rows(const View<const T>& in, const Axes& axes, const std::vector<Unit>& units, int64_t c, int64_t d,
               int64_t first_row, int64_t last_row, T* dst, int64_t stride) {
  const ConvTable<T>& table = conv_table<T>();
  const Axis &ad = axes[0], &ah = axes[1], &aw = axes[2];
  const int L = table.lanes;
  const int64_t cells = aw.cells();
  const RowCopy mode = row_copy(in, aw);
  const bool straight = mode == RowCopy::straight;
  const int64_t low = straight ? std::min(cells, std::max<int64_t>(0, -aw.cell_at[0])) : 0;
  const int64_t high = straight ? std::max(low, std::min(cells, aw.in - aw.cell_at[0])) : cells;
  const int64_t first = straight && low < high ? low + aw.cell_at[0] : 0;  // of the input row
  const int64_t length = mode == RowCopy::picked ? aw.in : cells;          // of a row before it is interleaved
  Scratch<T> zeros(std::max<int64_t>(length, L)), copies(straight ? 1 : L * length);
  std::fill_n(zeros.get(), std::max<int64_t>(length, L), T(0));
  std::vector<const T*> rows(L);
  for (int64_t h = first_row; h < last_row; ++h, dst += cells * stride) {
    bool any = false;
    for (int l = 0; l < L; ++l) {
      const Unit& unit = units[l];
      const int64_t at_d = ad.t * unit.start[0] + ad.cell_at[d], at_h = ah.t * unit.start[1] + ah.cell_at[h];
      const bool inside = unit.image >= 0 && at_d >= 0 && at_d < ad.in && at_h >= 0 && at_h < ah.in;
      any = any || inside;
      rows[l] = zeros.get();
      if (!inside) continue;
      rows[l] = in.data + unit.image * in.stride[0] + c * in.stride[1] + at_d * in.stride[2] + at_h * in.stride[3] +
                first * in.stride[4];
      if (mode == RowCopy::by_lane) {
        copy_cells(rows[l], in.stride[4], aw, aw.t * unit.start[2], copies.get() + l * cells);
        rows[l] = copies.get() + l * cells;
      }
    }
    if (!any) {
      zero_vectors(dst, stride, cells, L);
    } else if (mode == RowCopy::picked) {
      table.interleave(rows.data(), aw.in, copies.get(), L);
      table.pick_cells(copies.get(), aw.cell_at.data(), 0, aw.in, cells, dst, stride);
    } else {
      zero_vectors(dst, stride, low, L);
      table.interleave(rows.data(), high - low, dst + low * stride, stride);
      zero_vectors(dst + high * stride, stride, cells - high, L);
    }
  }
}

template void pack_rows(const View<const float>&, const Axes&, const std::vector<Unit>&, int64_t, int64_t, int64_t,
                        int64_t, float*, int64_t);
template void pack_rows(const View<const double>&, const Axes&, const std::vector<Unit>&, int64_t, int64_t, int64_t,
                        int64_t, double*, int64_t);

}  // namespace gk::cpu
