// Channels in the vector lanes: cells that hold a block of channels, packed from plain arrays with any strides.
#pragma once

#include <cstdint>
#include <vector>

#include "isa/bf16.hpp"
#include "lanes.hpp"

namespace gk::cpu {

// (image, group, block of channels, D, H, W cells of the axes, `width` channels); padding cells are zero.
struct ChannelCells {
  int64_t channels, groups, width, blocks;  // channels and blocks per group
  int64_t row, plane, block, group, image;  // strides in elements

  // `wanted` channels in a block, rounded to whole vectors; fewer channels than a vector are one block, rounded to
  // whole `parts`.
  ChannelCells(const Axes& axes, int64_t channels_per_group, int64_t group_count, int64_t wanted, int lanes,
               int parts = 1);

  int64_t valid(int64_t b) const { return b + 1 < blocks ? width : channels - b * width; }
};

// Plane d of one block of image n.
template <class T>
void pack_channels(const View<const T>& in, const Axes& axes, const ChannelCells& cells, int64_t n, int64_t group,
                   int64_t block, int64_t d, T* dst);

// All of images [first, first + count), on the pool.
template <class T>
void pack_channels(const View<const T>& in, const Axes& axes, const ChannelCells& cells, int64_t first, int64_t count,
                   T* dst);

// The same in pairs of neighbouring channels, rounded to bfloat16: `cells` count pairs (the last one of an odd number
// holds a zero), blocks that are wider than half a vector hold whole halves.
void pack_channel_pairs(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t first,
                        int64_t count, Bf16Pair* dst);

// Plane d of one block of images n and n + 1, in pairs of the two; zeros beyond the last image.
void pack_image_pair(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t n, int64_t group,
                     int64_t block, int64_t d, Bf16Pair* dst);

// All of the pairs that images [first, ...) make, on the pool.
void pack_image_pairs(const View<const float>& in, const Axes& axes, const ChannelCells& cells, int64_t first,
                      int64_t pairs, Bf16Pair* dst);

// `vectors` vectors of channels cut into blocks of at most kMaxVectors, of nearly one size.
struct VectorBlock {
  int64_t first;  // channel within the group
  int64_t valid;  // channels
  int vectors;
};
std::vector<VectorBlock> vector_blocks(int64_t channels, int lanes, int most);

// Where few outputs leave lanes idle: parts of the sum over the inputs that share a vector, 1 where nothing is gained.
template <class T>
int lane_parts(const ConvTable<T>& table, int64_t inputs, int64_t outputs);

// Do the taps of a phase read consecutive cells, whatever the output? Then they are one run.
bool consecutive_cells(const Phase& phase);

}  // namespace gk::cpu
