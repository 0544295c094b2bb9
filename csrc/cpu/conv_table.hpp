// The convolution loops of the instruction set in use.
#pragma once

#include <algorithm>
#include <vector>

#include "isa/conv.hpp"
#include "isa/table.hpp"

namespace gk::cpu {

GK_ISA_TABLE(ConvTable<float>, conv_float)
GK_ISA_TABLE(ConvTable<double>, conv_double)

template <class T>
const ConvTable<T>& conv_table();
template <>
inline const ConvTable<float>& conv_table<float>() {
  return conv_float();
}
template <>
inline const ConvTable<double>& conv_table<double>() {
  return conv_double();
}

// The smallest tile that holds `outputs` channels, at most the wide one: how a channel count is cut into blocks.
template <class T>
int tile_outputs(const ConvTable<T>& table, int64_t outputs) {
  if (outputs % 6 == 0 && outputs % table.wide_outputs != 0) return 6;
  for (int o = 1; o < table.wide_outputs; ++o)
    if (o >= outputs && table.max_positions[o] > 0) return o;
  return table.wide_outputs;
}

struct ChannelBlock {
  int64_t first, valid;  // output channels within the group
  int tile;              // of the tile that computes them
};

template <class T>
std::vector<ChannelBlock> channel_blocks(const ConvTable<T>& table, int64_t outputs) {
  std::vector<ChannelBlock> blocks;
  for (int64_t o = 0; o < outputs; o += blocks.back().tile) {
    const int tile = tile_outputs(table, outputs - o);
    blocks.push_back({o, std::min<int64_t>(tile, outputs - o), tile});
  }
  return blocks;
}

}  // namespace gk::cpu
