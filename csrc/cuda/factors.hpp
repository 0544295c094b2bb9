// Numbers of optimizer steps in graphs: learning rates and what the count of steps makes of them change from launch to
// launch, so kernels read them from device memory (factors.cuh), where they are written before a graph starts if they
// are others than the last time. Counts of steps are not written: the graph counts on (counters.hpp).
#pragma once

#include <cstdint>

namespace gk::cuda {

constexpr int kFactorWords = 8;  // of one call

// What the device is told about a call: its factors, or settings that make them together with a count. The last two
// words are by how much that count moves on, and its place, then.
struct ToldFactors {
  std::uint64_t word[kFactorWords] = {};
  const void* counted = nullptr;  // an array of the optimizer, the same at all its steps
  std::int64_t step = 0;
};
constexpr int kMoveWord = kFactorWords - 2, kPlaceWord = kFactorWords - 1;

// While it exists, a kernel with factors that this thread queues will read what was told there; `folded` has space for
// kFactorWords that the device makes of it.
class FactorsAt {
 public:
  FactorsAt(const std::uint64_t* told, std::uint64_t* folded);
  ~FactorsAt();
  static bool taken();  // there was such a kernel
};

// While it exists, this thread's kernels with factors are not queued: what they would be told is put there instead.
class FactorsTo {
 public:
  explicit FactorsTo(ToldFactors* told);
  ~FactorsTo();
};

}  // namespace gk::cuda
