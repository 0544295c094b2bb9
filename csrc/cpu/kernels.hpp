// The kernels of core/kernels.inc, declared for the CPU.
#pragma once

#include <cstdint>

#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cpu {
using std::uint64_t;
#include "../core/kernels.inc"
template <>
void sum<std::int64_t>(View<const int64_t> x, View<int64_t> y);
}  // namespace gk::cpu
