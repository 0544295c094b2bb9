// Numbers of optimizer steps in graphs: learning rates and what the count of steps makes of them change from launch to
// launch, so kernels read them from device memory (factors.cuh), where they are written before a graph starts.
#pragma once

#include <cstdint>

namespace gk::cuda {

constexpr int kFactorWords = 8;  // of one call

// While it exists, a kernel with factors that this thread queues will read them there.
class FactorsAt {
 public:
  explicit FactorsAt(const std::uint64_t* words);
  ~FactorsAt();
  static bool taken();  // there was such a kernel
};

// While it exists, this thread's kernels with factors are not queued: their factors are put there instead.
class FactorsTo {
 public:
  explicit FactorsTo(std::uint64_t* words);
  ~FactorsTo();
};

}  // namespace gk::cuda
