// The kernels of core/epilogues.inc, declared for CUDA: results are finished where they are stored, by the arithmetic
// of epilogue.cuh.
#pragma once

#include <cstdint>

#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace gk::cuda {
using std::uint64_t;
#include "../core/epilogues.inc"
}  // namespace gk::cuda
