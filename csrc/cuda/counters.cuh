// A counter of random numbers, as kernels take it.
#pragma once

#include "counters.hpp"
#include "device.cuh"

namespace gk::cuda {

struct Counter {
  uint64_t first;
  const uint64_t* moved;  // null outside of graphs

  __device__ __forceinline__ uint64_t value() const { return moved ? first + *moved : first; }
};

Counter counter(uint64_t first);  // of the kernel that this thread queues next

}  // namespace gk::cuda
