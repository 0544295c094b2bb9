// Packing of channels into vectors: whole planes or rows of a vector of channels are transposed, then cells are picked.
#include "channel_lanes.hpp"

#include <algorithm>

#include "bf16.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kPlaneCells = 1024;  // up to here whole planes are transposed: 64 KiB in vectors of 64 bytes

bool inside(int64_t at, const Axis& axis) { return at >= 0 && at < axis.in; }

// Channels of a row that does not lie in memory as the transposes want it.
template <class T>
const T* dense_row(const T* row, int64_t stride, int64_t length, T* copy) {
  if (stride == 1) return row;
  for (int64_t i = 0; i < length; ++i) copy[i] = row[i * stride];
  return copy;
}

}  // namespace

ChannelCells::ChannelCells(const Axes& axes, int64_t channels_per_group, int64_t group_count, int64_t wanted, int lanes,
                           int parts)
    : channels(channels_per_group), groups(group_count) {
  if (channels <= lanes) {
    width = ceil_div(channels, parts) * parts, blocks = 1;
  } else {
    const int64_t vectors = ceil_div(channels, lanes);
    blocks = ceil_div(vectors, std::max<int64_t>(1, wanted / lanes));
    width = ceil_div(vectors, blocks) * lanes;
    blocks = ceil_div(channels, width);
  }
  row = axes[2].cells() * width;
  plane = axes[1].cells() * row;
  block = axes[0].cells() * plane;
  group = blocks * block;
  image = groups * group;
}

template <class T>
void pack_channels(const View<const T>& in, const Axes& axes, const ChannelCells& cells, int64_t n, int64_t group,
                   int64_t block, int64_t d, T* dst) {
  const ConvTable<T>& table = conv_table<T>();
  const Axis &ad = axes[0], &ah = axes[1], &aw = axes[2];
  if (!inside(ad.cell_at[d], ad)) {
    std::fill_n(dst, cells.plane, T(0));
    return;
  }
  const int64_t L = table.lanes, first = group * cells.channels + block * cells.width, valid = cells.valid(block);
  const T* plane = in.data + n * in.stride[0] + first * in.stride[1] + ad.cell_at[d] * in.stride[2];
  const int64_t count = ah.in * aw.in;
  const bool dense = in.stride[4] == 1;
  const bool whole = dense && (in.stride[3] == aw.in || ah.in == 1) && count <= kPlaneCells;
  const int64_t length = whole ? count : aw.in;
  // Cells narrower than a vector: each is written over the end of the one before it, the last ones number by number.
  const int64_t overlapped = cells.width < L ? std::max<int64_t>(0, aw.cells() - L / cells.width) : aw.cells();
  Scratch<T> turned(length * L), copies(dense ? 1 : L * length), zeros(length);
  std::fill_n(zeros.get(), length, T(0));
  const T* rows[64];
  for (int64_t v = 0; v < cells.width; v += L) {
    const auto turn = [&](const T* from) {
      for (int64_t l = 0; l < L; ++l)
        rows[l] = v + l < valid
                      ? dense_row(from + (v + l) * in.stride[1], in.stride[4], length, copies.get() + l * length)
                      : zeros.get();
      table.interleave(rows, length, turned.get(), L);
    };
    if (whole) turn(plane);
    for (int64_t h = 0; h < ah.cells(); ++h) {
      const int64_t at = ah.cell_at[h];
      const bool any = inside(at, ah);
      if (any && !whole) turn(plane + at * in.stride[3]);
      const T* line = turned.get() + (whole && any ? at * aw.in * L : 0);
      T* to = dst + h * cells.row + v;
      table.pick_cells(line, aw.cell_at.data(), 0, any ? aw.in : 0, overlapped, to, cells.width);
      for (int64_t i = overlapped; i < aw.cells(); ++i) {
        const bool in_row = any && inside(aw.cell_at[i], aw);
        for (int64_t c = 0; c < cells.width; ++c) to[i * cells.width + c] = in_row ? line[aw.cell_at[i] * L + c] : T(0);
      }
    }
  }
}

template <class T>
void pack_channels(const View<const T>& in, const Axes& axes, const ChannelCells& cells, int64_t first, int64_t count,
                   T* dst) {
  const int64_t planes = axes[0].cells(), blocks = cells.groups * cells.blocks;
  parallel_for(count * blocks * planes, [&](int64_t i) {
    const int64_t n = i / (blocks * planes), b = i / planes % blocks, d = i % planes;
    pack_channels(in, axes, cells, first + n, b / cells.blocks, b % cells.blocks, d, dst + i * cells.plane);
  });
}

void pack_channel_pairs(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t first,
                        int64_t count, Bf16Pair* dst) {
  ChannelCells numbers = cells;
  numbers.channels = in.shape[1] / cells.groups;
  numbers.width *= 2, numbers.row *= 2, numbers.plane *= 2;
  const int64_t planes = axes[0].cells(), blocks = cells.groups * cells.blocks;
  parallel_for(count * blocks * planes, [&](int64_t i) {
    const int64_t n = i / (blocks * planes), b = i / planes % blocks, d = i % planes;
    Scratch<float> plane(numbers.plane);
    pack_channels(in, axes, numbers, first + n, b / cells.blocks, b % cells.blocks, d, plane.get());
    bf16_table()->narrow(plane.get(), cells.plane, dst + i * cells.plane);
  });
}

void pack_image_pair(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t n, int64_t group,
                     int64_t block, int64_t d, Bf16Pair* dst) {
  Scratch<float> planes(2 * cells.plane);
  float *low = planes.get(), *high = low + cells.plane;
  pack_channels(in, axes, cells, n, group, block, d, low);
  if (n + 1 < in.shape[0])
    pack_channels(in, axes, cells, n + 1, group, block, d, high);
  else
    std::fill_n(high, cells.plane, 0.0f);
  bf16_table()->merge(low, high, cells.plane, dst);
}

void pack_image_pairs(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t first,
                      int64_t pairs, Bf16Pair* dst) {
  const int64_t planes = axes[0].cells(), blocks = cells.groups * cells.blocks;
  parallel_for(pairs * blocks * planes, [&](int64_t i) {
    const int64_t n = first + 2 * (i / (blocks * planes)), b = i / planes % blocks;
    pack_image_pair(in, axes, cells, n, b / cells.blocks, b % cells.blocks, i % planes, dst + i * cells.plane);
  });
}

std::vector<VectorBlock> vector_blocks(int64_t channels, int lanes, int most) {
  const int64_t vectors = ceil_div(channels, lanes), count = ceil_div(vectors, most);
  std::vector<VectorBlock> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = vectors * i / count, last = vectors * (i + 1) / count;
    blocks.push_back({first * lanes, std::min(channels, last * lanes) - first * lanes, static_cast<int>(last - first)});
  }
  return blocks;
}

template <class T>
int lane_parts(const ConvTable<T>& table, int64_t inputs, int64_t outputs) {
  int best = 1;
  for (int n = 2; n <= ConvTable<T>::kMaxParts; n *= 2)
    if (table.part_tile[n] && outputs * n <= table.lanes && ceil_div(inputs, n) < ceil_div(inputs, best)) best = n;
  return best;
}

bool consecutive_cells(const Phase& phase) {
  for (size_t k = 1; k < phase.taps.size(); ++k)
    if (phase.taps[k].cell != phase.taps[k - 1].cell + 1) return false;
  return true;
}

#define GK_INSTANTIATE(T)                                                                                        \
  template void pack_channels(const View<const T>&, const Axes&, const ChannelCells&, int64_t, int64_t, int64_t, \
                              int64_t, T*);                                                                      \
  template void pack_channels(const View<const T>&, const Axes&, const ChannelCells&, int64_t, int64_t, T*);     \
  template int lane_parts(const ConvTable<T>&, int64_t, int64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
