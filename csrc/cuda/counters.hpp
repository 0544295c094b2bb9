// Counters of random numbers in graphs: a graph is captured with the counters of its recording, and its kernels read
// from device memory by how much they have moved on since (counters.cuh).
#pragma once

#include <cstdint>

namespace gk::cuda {

// While it exists, what this thread queues reads its counter's movement there; null: nowhere, the counter is as given.
class MovedBy {
 public:
  explicit MovedBy(const std::uint64_t* moved);
  ~MovedBy();
};

// Writes numbers to the device, in the order of the stream; they travel with the launch.
void store_words(std::uint64_t* target, const std::uint64_t* words, int n);

}  // namespace gk::cuda
