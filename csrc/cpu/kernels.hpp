// The kernels of core/kernels.inc, declared for the CPU.
#pragma once

#include <cstdint>

#include "../core/bfloat16.hpp"
#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cpu {
using std::uint64_t;
#include "../core/kernels.inc"
// gx = conv_transpose(y, w) and gw = conv_weight(x, y), to the same bits; faster where conv_gradients_share says so.
template <class T>
void conv_gradients(View<const T> x, View<const T> w, View<const T> y, View<T> gx, View<T> gw, const ConvGeometry& g,
                    ConvAlgorithm a);
template <>
void sum<std::int64_t>(View<const int64_t> x, View<int64_t> y);
}  // namespace gk::cpu
