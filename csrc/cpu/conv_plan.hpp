// One place that decides how a convolution is computed, from its geometry alone (or from a measurement, where asked).
#pragma once

#include <vector>

#include "../core/geometry.hpp"

namespace gk::cpu {

// Multiply-adds, padding counted as cells.
inline int64_t conv_work(const ConvGeometry& g) {
  return g.batch * g.out_channels * g.y_volume() * (g.in_channels / g.groups) * g.taps();
}

enum class ConvSlot : int { x = 0, w = 1, y = 2 };  // which one is open: what is computed

// Predicted cost of a path, in multiply-adds of a vector at full speed (half a cycle on a core with two such units).
struct ConvEstimate {
  ConvAlgorithm path;
  double products;  // vector multiply-adds, idle lanes included
  double visits;    // of a tile to a tap, or to its sums
  double packed;    // vectors of the input moved into lanes
  double stored;    // vectors of the output moved out of lanes
  double weights;   // vectors of weights moved
  double cost;
};

// The paths to choose from where `asked` is asked for, cheapest first.
template <class T>
std::vector<ConvEstimate> conv_estimates(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked);

// Are factors of type T to be rounded to bfloat16, where float32 is not predicted to be faster by FFT?
template <class T>
bool rounds_to_bf16(ConvAlgorithm asked) {
  return sizeof(T) == sizeof(float) &&
         (asked == ConvAlgorithm::bf16 || asked == ConvAlgorithm::bf16_auto || asked == ConvAlgorithm::bf16_fast);
}

// The path that is taken where `asked` is asked for: batch, channels, bf16, im2col or fft. Remembered for each
// geometry; what is to be measured and has not been yet is predicted.
template <class T>
ConvAlgorithm conv_plan(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked);

// Do both gradients go through spectra of y that they can share?
template <class T>
bool conv_gradients_share(const ConvGeometry& g, ConvAlgorithm asked);

// The outcome of a measurement.
template <class T>
void remember_conv_plan(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked, ConvAlgorithm path);
template <class T>
bool conv_plan_known(const ConvGeometry& g, ConvSlot slot, ConvAlgorithm asked, ConvAlgorithm* path);

}  // namespace gk::cpu
