// The cost model counts what each path does to vectors: multiply-adds (with the lanes that its layout leaves idle and
// the padding that it does not skip), visits of a tile to a tap, packing, unpacking, and the rearrangement of the
// weights. The prices were fitted to the times of 211 layers in all passes, those of the rows path to 4200 random ones
// of every size (float32, AVX-512, one thread): there the choice costs 7 % over the best one in the mean, 40 % or more
// in one case of twenty; without that path 25 % and 90 %.
#include "conv_plan.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "bf16.hpp"
#include "channel_lanes.hpp"
#include "conv_paths.hpp"
#include "tiles.hpp"

namespace gk::cpu {
namespace {

double number(int64_t n) { return static_cast<double>(n); }

struct Prices {
  double products, visits, packed, stored, weights, call;
};
constexpr Prices kBatchGather{1.12, 0, 33, 36, 127, 50e3}, kBatchWeight{1.5, 0.24, 37, 0, 500, 90e3};
constexpr Prices kRowGather{1.06, 930, 21, 10, 93, 18e3};
constexpr Prices kChannelGather{1.12, 21, 25, 29, 42, 26e3}, kChannelWeight{1.13, 11, 20, 0, 41, 23e3};
constexpr Prices kColumns{1.12, 900, 100, 250, 16, 30e3};

ConvEstimate priced(ConvEstimate e, const Prices& p) {
  e.cost = p.call + e.products * p.products + e.visits * p.visits + e.packed * p.packed + e.stored * p.stored +
           e.weights * p.weights;
  return e;
}

// Weights and their rearranged copy that outgrow the last cache: moving them costs several times as much.
constexpr double kCacheBytes = 24 << 20, kBatchOutOfCache = 4, kChannelsOutOfCache = 2.2;
constexpr double kColumnBytes = 4 << 20;  // of weights and copy, from which on columns may pay

template <class T>
double with_copy_bytes(const ConvGeometry& g) {
  return 2.0 * sizeof(T) * number(g.out_channels * (g.in_channels / g.groups) * g.taps());
}

template <class T>
double memory_price(const ConvGeometry& g, double out_of_cache) {
  return with_copy_bytes<T>(g) > kCacheBytes ? out_of_cache : 1.0;
}

// Outputs of a row that a tile of the batch path mostly holds.
constexpr int64_t kBatchPositions = 2;

// Parts of a sum are added after they left the lanes.
constexpr double kPartStores = 3;

// A narrow tile is limited by its loads: O outputs of one vector take O + 1 of them.
double tile_price(int outputs) { return outputs >= 6 ? 1.0 : outputs >= 4 ? 1.05 : outputs >= 2 ? 1.2 : 1.5; }

// Output channels of a group in the batch path, padded to tiles and priced.
template <class T>
double batch_outputs(int64_t outputs) {
  double sum = 0;
  for (int64_t o = 0; o < outputs;) {
    const int tile = tile_outputs(conv_table<T>(), outputs - o);
    sum += tile * tile_price(tile);
    o += tile;
  }
  return sum;
}

template <class T>
ConvEstimate batch(const ConvGeometry& g, ConvSlot slot, const Axes& axes, int64_t inputs, int64_t outputs) {
  const int L = conv_table<T>().lanes;
  ConvEstimate e{ConvAlgorithm::batch, 0, 0, 0, 0, 0, 0};
  const double groups = number(g.groups), taps = number(g.taps());
  for (const LaneGroup& group : lane_groups(g.batch, L, axes, 0.05 * taps * number(outputs))) {
    double products = number(group.blocks(L)), cells = products, results = products;
    for (int i = 0; i < 3; ++i) {
      const int64_t all = axes[i].outputs(), sub = (all + group.cuts[i] - 1) / group.cuts[i];
      products *= tap_outputs(axes[i]) * number(sub) / number(all);
      if (group.cuts[i] == 1) products *= served_part(axes[i], i == 2 ? kBatchPositions : 1);
      cells *= number(axes[i].window(sub)) * (i == 2 && group.cuts[2] > 1 ? 4 : 1);
      results *= number(axes[i].out) / number(group.cuts[i]);
    }
    e.products += products * number(inputs) * batch_outputs<T>(outputs) * groups;
    e.packed += cells * number(inputs) * groups;
    (slot == ConvSlot::w ? e.packed : e.stored) += results * number(outputs) * groups;
  }
  e.weights = number(inputs * outputs) * taps * groups / L;
  if (slot != ConvSlot::w) e.weights *= memory_price<T>(g, kBatchOutOfCache);
  // The sums of a weights gradient are vectors: one for each weight and each of up to 64 slabs.
  if (slot == ConvSlot::w) e.visits = e.weights * L * std::max(1.0, 64.0 / std::max(1.0, number(outputs) / 8 * groups));
  return priced(e, slot == ConvSlot::w ? kBatchWeight : kBatchGather);
}

// Half cycles of one input channel and tap in the tiles of a plane: as RowTiles::cycles of the batch path has it.
template <class T>
double plane_products(int64_t vectors, int64_t outputs) {
  int64_t sum = 0;
  for (const ChannelBlock& block : channel_blocks(conv_table<T>(), outputs)) {
    const int64_t widest = conv_table<T>().max_positions[block.tile], tiles = (vectors + widest - 1) / widest;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t positions = vectors * (i + 1) / tiles - vectors * i / tiles;
      sum += std::max({block.tile * positions, block.tile + positions, int64_t{8}});
    }
  }
  return number(sum);
}

// Packing a row takes so much more, in vectors.
constexpr double kRowStart = 0.9;

template <class T>
ConvEstimate rows(const ConvGeometry& g, const Axes& axes, int64_t inputs, int64_t outputs) {
  const int L = conv_table<T>().lanes;
  ConvEstimate e{ConvAlgorithm::rows, 0, 0, 0, 0, 0, 0};
  const double groups = number(g.groups), taps = number(g.taps()), planes = number(g.batch * axes[0].out) * groups;
  int64_t window[3];
  for (int i = 0; i < 3; ++i) window[i] = axes[i].window(axes[i].out);
  const int64_t vectors = ((axes[1].out - 1) * window[2] + axes[2].out + L - 1) / L;  // of a plane
  e.products = planes * served_part(axes[0]) * taps * number(inputs) * plane_products<T>(vectors, outputs);
  e.visits = planes * number(static_cast<int64_t>(channel_blocks(conv_table<T>(), outputs).size()));
  e.packed = number(g.batch * inputs * window[0] * window[1]) * groups * (number(window[2]) / L + kRowStart);
  e.stored = planes * number(vectors) * batch_outputs<T>(outputs);
  e.weights = number(inputs * outputs) * taps * groups / L * memory_price<T>(g, kBatchOutOfCache);
  return priced(e, kRowGather);
}

// In pairs of bfloat16 numbers a gather has half the inputs, a weights gradient half the images; products of pairs cost
// what those of numbers do. Packing rounds too.
constexpr double kPairPacking = 1.5;

// Of a product of vectors of pairs that a tile does, next to one of AVX512-BF16. Not measured here: the published rate
// of AMX-BF16 is 1024 operations per clock and core, eight times that of AVX-512, and the best published convolution of
// few channels reached a third of it (oneDNN issue 2088). Rows and pairs that only fill tiles are counted as products.
constexpr double kTileProducts = 3.0 / 8;

// What tiles of 16 rows, columns or pairs multiply, next to what there is.
double tile_padding(double extent) { return std::ceil(extent / 16) * 16 / extent; }

template <class T>
ConvEstimate channels(const ConvGeometry& g, ConvSlot slot, const Axes& axes, int64_t channel_inputs, int64_t outputs,
                      bool pairs_of_numbers) {
  const int L = conv_table<T>().lanes;
  ConvEstimate e{pairs_of_numbers ? ConvAlgorithm::bf16 : ConvAlgorithm::channels, 0, 0, 0, 0, 0, 0};
  const int64_t inputs = pairs_of_numbers && slot != ConvSlot::w ? (channel_inputs + 1) / 2 : channel_inputs;
  const int64_t images = pairs_of_numbers && slot == ConvSlot::w ? (g.batch + 1) / 2 : g.batch;
  const int parts = lane_parts(conv_table<T>(), inputs, outputs);
  const bool fit_tiles = slot == ConvSlot::w ? g.y[2] >= TileTable::kLeastRun : parts == 1;
  const bool tiles = pairs_of_numbers && fit_tiles && tile_table();
  const int most = tiles && slot != ConvSlot::w ? TileTable::kMaxVectors : ConvTable<T>::kMaxVectors;
  const std::vector<VectorBlock> blocks = vector_blocks(outputs, L, most);
  double vectors = 0, priced_vectors = 0;
  for (const VectorBlock& b : blocks) {
    vectors += b.vectors;
    priced_vectors += b.vectors * (b.vectors == 1 ? 1.2 : 1.0);
  }
  const double steps = number((inputs + parts - 1) / parts);
  const int64_t positions = tiles ? TileTable::kRows : conv_table<T>().rows;  // of a row that share their taps
  const double groups = number(g.groups), batch = number(images);
  const double in_vectors = number((channel_inputs + L - 1) / L);
  double pairs = batch, cells = number(g.batch), results = cells;  // pairs of an output and a tap
  for (const Axis& a : axes) {
    pairs *= tap_outputs(a) * served_part(a, &a == &axes[2] && slot != ConvSlot::w ? positions : 1);
    cells *= number(a.window(a.outputs()));
    results *= number(a.out);
  }
  const bool folded = inputs <= L && axes[2].phases[0].taps.size() > 1 && g.dilation[2] == 1;
  const double line =
      folded ? tap_outputs(axes[2]) / number(axes[2].outputs() * static_cast<int64_t>(axes[2].phases.size())) : 1;
  const double run = line * std::min(number(inputs), 64.0), rows = number(positions);
  if (slot == ConvSlot::w) {
    const double numbers = folded ? line * number(inputs) : number(inputs);  // of x that meet a vector of y
    const double padded = numbers <= 2 ? 2 * numbers : std::max(4.0, std::ceil(numbers / 8) * 8);
    e.products = pairs * number(inputs) * padded / numbers * priced_vectors * groups;
    if (tiles)
      e.products = pairs * number(inputs) * tile_padding(numbers) * vectors * groups * tile_padding(number(g.y[2])) *
                   kTileProducts;
    const double positions = std::min(256.0, batch * number(g.y[1] * g.y[2]));
    e.visits = e.products / positions;
    e.packed = (cells * in_vectors + results * vectors) * groups;
  } else {
    e.products = pairs * steps * priced_vectors * groups;
    if (tiles)
      e.products = pairs * steps * vectors * groups * tile_padding(run) * tile_padding(results) * kTileProducts;
    e.visits =
        pairs / line * number(inputs) / (run / line) * number(static_cast<int64_t>(blocks.size())) / rows * groups;
    e.packed = cells * in_vectors * groups, e.stored = results * vectors * groups * (parts > 1 ? kPartStores : 1);
  }
  e.weights = (slot == ConvSlot::w ? number(inputs) : steps) * vectors * number(g.taps()) * groups;
  if (slot != ConvSlot::w) e.weights *= memory_price<T>(g, kChannelsOutOfCache);
  if (pairs_of_numbers) e.packed *= kPairPacking;
  return priced(e, slot == ConvSlot::w ? kChannelWeight : kChannelGather);
}

// The product of the positions with the weights where they lie, then sums of columns: for few positions and weights
// whose copy would cost more than their use.
template <class T>
ConvEstimate columns(const ConvGeometry& g, int64_t inputs, int64_t outputs) {
  const int L = conv_table<T>().lanes;
  ConvEstimate e{ConvAlgorithm::im2col, 0, 0, 0, 0, 0, 0};
  const double positions = number(g.batch * g.y_volume()), rows = number(outputs * g.taps() * g.groups);
  const int tile = tile_outputs(conv_table<T>(), g.batch * g.y_volume());
  e.products = std::ceil(positions / tile) * tile * tile_price(tile) * number(inputs) * rows / L;
  e.packed = positions * number(inputs * g.groups) / L;
  e.visits = number(g.batch * outputs * g.groups);
  e.stored = positions * rows / L;
  e.weights = number(inputs) * rows / L * std::max(1.0, positions / 256);
  return priced(e, kColumns);
}

// FFT's own prediction is in multiply-adds of the batch path. Its error is relative to the image, not to the cell, so
// it has to win clearly; few taps never pay.
constexpr int64_t kFewestFftTaps = 27;
constexpr double kFftPrice = 1.5;

template <class T>
ConvEstimate fft(const ConvGeometry& g) {
  return {ConvAlgorithm::fft, 0, 0, 0, 0, 0, kBatchGather.call + conv_fft_cost<T>(g) * kFftPrice};
}

// ---- choices are remembered --------------------------------------------------------------------------------------
constexpr size_t kRemembered = 4096;
typedef std::array<int64_t, sizeof(ConvGeometry) / sizeof(int64_t) + 5> Key;

template <class T>
Key key_of(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked) {
  Key key;
  std::memcpy(key.data(), &g, sizeof(g));
  const size_t n = sizeof(g) / sizeof(int64_t);
  key[n] = static_cast<int64_t>(slot), key[n + 1] = static_cast<int64_t>(asked);
  key[n + 2] = sizeof(T), key[n + 3] = conv_table<T>().lanes, key[n + 4] = tile_table() != nullptr;
  return key;
}

std::mutex remembered_mutex;
std::map<Key, ConvAlgorithm> remembered;

template <class T>
ConvAlgorithm choose(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked) {
  if (asked == ConvAlgorithm::bf16 && rounds_to_bf16<T>(asked) && bf16_table()) return asked;
  if (asked == ConvAlgorithm::fft && conv_fft_covers<T>(g)) return asked;
  const std::vector<ConvEstimate> estimates = conv_estimates<T>(g, slot, asked);
  for (const ConvEstimate& e : estimates)
    if (asked == ConvAlgorithm::rows && e.path == asked) return asked;
  return estimates[0].path;
}

}  // namespace

template <class T>
std::vector<ConvEstimate> conv_estimates(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked) {
  const Axes axes = slot == ConvSlot::x ? transposed_gather_axes(g) : gather_axes(g);
  int64_t inputs = g.in_channels / g.groups, outputs = g.out_channels / g.groups;
  if (slot == ConvSlot::x) std::swap(inputs, outputs);
  bool empty = g.batch == 0 || inputs == 0 || outputs == 0;
  for (const Axis& a : axes) empty = empty || a.phases.empty() || a.out == 0;
  if (empty) return {{ConvAlgorithm::batch, 0, 0, 0, 0, 0, 0}};
  std::vector<ConvEstimate> found{batch<T>(g, slot, axes, inputs, outputs),
                                  channels<T>(g, slot, axes, inputs, outputs, false)};
  if (slot != ConvSlot::w && rows_adjoin(axes)) found.push_back(rows<T>(g, axes, inputs, outputs));
  const bool rounds = rounds_to_bf16<T>(asked);  // a rounded copy of the weights would cost what columns save
  if (slot == ConvSlot::x && !rounds && with_copy_bytes<T>(g) >= kColumnBytes)
    found.push_back(columns<T>(g, inputs, outputs));
  if (rounds && bf16_table()) found.push_back(channels<T>(g, slot, axes, inputs, outputs, true));
  const bool with_fft = asked == ConvAlgorithm::fft || asked == ConvAlgorithm::fast ||
                        asked == ConvAlgorithm::measured_fast || asked == ConvAlgorithm::bf16_fast;
  if (with_fft && g.taps() >= kFewestFftTaps && conv_fft_covers<T>(g)) found.push_back(fft<T>(g));
  std::stable_sort(found.begin(), found.end(),
                   [](const ConvEstimate& a, const ConvEstimate& b) { return a.cost < b.cost; });
  return found;
}

template <class T>
bool conv_plan_known(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked, ConvAlgorithm* path) {
  const std::lock_guard<std::mutex> lock(remembered_mutex);
  const auto found = remembered.find(key_of<T>(g, slot, asked));
  if (found != remembered.end()) *path = found->second;
  return found != remembered.end();
}

template <class T>
void remember_conv_plan(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked, ConvAlgorithm path) {
  const std::lock_guard<std::mutex> lock(remembered_mutex);
  if (remembered.size() >= kRemembered) remembered.clear();
  remembered.emplace(key_of<T>(g, slot, asked), path);
}

template <class T>
ConvAlgorithm conv_plan(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked) {
  if (asked == ConvAlgorithm::batch || asked == ConvAlgorithm::im2col || asked == ConvAlgorithm::channels) return asked;
  ConvAlgorithm path;
  if (conv_plan_known<T>(g, slot, asked, &path)) return path;
  path = choose<T>(g, slot, asked);
  const bool measured = asked == ConvAlgorithm::measured || asked == ConvAlgorithm::measured_fast;
  if (!measured) remember_conv_plan<T>(g, slot, asked, path);
  return path;
}

template <class T>
bool conv_gradients_share(const ConvGeometry& g, ConvAlgorithm asked) {
  for (const ConvSlot slot : {ConvSlot::x, ConvSlot::w}) {
    const bool measured = asked == ConvAlgorithm::measured || asked == ConvAlgorithm::measured_fast;
    ConvAlgorithm path;
    if (measured && !conv_plan_known<T>(g, slot, asked, &path)) return false;
    if (conv_plan<T>(g, slot, asked) != ConvAlgorithm::fft) return false;
  }
  return conv_gradients_fft_covers<T>(g);
}

#define GK_INSTANTIATE(T)                                                                             \
  template std::vector<ConvEstimate> conv_estimates<T>(const ConvGeometry&, ConvSlot, ConvAlgorithm); \
  template ConvAlgorithm conv_plan<T>(const ConvGeometry&, ConvSlot, ConvAlgorithm);                  \
  template bool conv_gradients_share<T>(const ConvGeometry&, ConvAlgorithm);                          \
  template void remember_conv_plan<T>(const ConvGeometry&, ConvSlot, ConvAlgorithm, ConvAlgorithm);   \
  template bool conv_plan_known<T>(const ConvGeometry&, ConvSlot, ConvAlgorithm, ConvAlgorithm*);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
