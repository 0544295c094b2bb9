// The factors of an optimizer step, as its kernel takes them: X is a struct of numbers.
#pragma once

#include <cstring>
#include <type_traits>

#include "device.cuh"
#include "factors.hpp"

namespace gk::cuda {

template <class X>
struct Factors {
  X given;
  const X* there;  // null outside of graphs

  __device__ __forceinline__ X value() const { return there ? *there : given; }
};

// Where the kernel that this thread queues next reads its factors, or null; where it puts them instead of being queued.
const void* factors_there();
void* factors_wanted();

// Queues launch(factors), unless a graph has that kernel and only wants the numbers.
template <class X, class Launch>
void with_factors(const X& given, const Launch& launch) {
  static_assert(std::is_trivially_copyable_v<X> && sizeof(X) <= kFactorWords * sizeof(std::uint64_t));
  if (void* wanted = factors_wanted())
    std::memcpy(wanted, &given, sizeof given);
  else
    launch(Factors<X>{given, static_cast<const X*>(factors_there())});
}

}  // namespace gk::cuda
