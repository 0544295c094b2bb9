// The kernels of core/kernels.inc, declared for CUDA.
#pragma once

#include <cstdint>

#include "../core/bfloat16.hpp"
#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cuda {
using std::uint64_t;
#include "../core/kernels.inc"
}  // namespace gk::cuda
