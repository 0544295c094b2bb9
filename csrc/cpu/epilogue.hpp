// The kernels of core/epilogues.inc, declared for the CPU, and the pass over a fresh output that they end with where
// the kernel itself cannot finish its results.
#pragma once

#include <cstdint>

#include "../core/bfloat16.hpp"
#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cpu {
using std::uint64_t;
#include "../core/epilogues.inc"

// y = dropout(leaky_relu(y + bias[c])) in place
template <class T>
void epilogue(View<T> y, View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset);

// What dropout multiplies the elements by that it keeps.
inline double dropout_scale(double p) { return p < 1.0 ? 1.0 / (1.0 - p) : 0.0; }

}  // namespace gk::cpu
