// The factors of an optimizer step, as its kernel takes them: X is a struct of numbers.
#pragma once

#include <cstring>
#include <type_traits>

#include "factors.hpp"
#include "launch.cuh"

namespace gk::cuda {

template <class X>
struct Factors {
  X given;
  const X* there;  // null outside of graphs

  __device__ __forceinline__ X value() const { return there ? *there : given; }
};

struct FactorPlaces {
  const std::uint64_t* told = nullptr;
  std::uint64_t* folded = nullptr;
};
// Where the kernel that this thread queues next reads its factors, or nulls; where they go instead of it being queued.
FactorPlaces factors_there();
ToldFactors* factors_wanted();

// Queues launch(factors), unless a graph has that kernel and only wants the numbers.
template <class X, class Launch>
void with_factors(const X& given, const Launch& launch) {
  static_assert(std::is_trivially_copyable_v<X> && sizeof(X) <= sizeof ToldFactors::word);
  if (ToldFactors* told = factors_wanted())
    std::memcpy(told->word, &given, sizeof given);
  else
    launch(Factors<X>{given, reinterpret_cast<const X*>(factors_there().told)});
}

// ToldFactors::word of a call with a count.
template <class Settings>
struct CountedFactors {
  Settings settings;
  std::uint64_t by;
  std::int64_t* count;
};

template <class Settings, class X>
__global__ void fold_kernel(const CountedFactors<Settings>* told, X* folded) {
  *told->count += static_cast<std::int64_t>(told->by);
  *folded = told->settings.at(*told->count);
}

// The same for factors settings.at(step). A graph has the step's number on the device: by `counted`, which array of the
// optimizer it is, and a kernel of one thread folds them there.
template <class Settings, class Launch>
void with_counted_factors(const Settings& settings, const void* counted, int64_t step, const Launch& launch_with) {
  using X = decltype(settings.at(step));
  using Told = CountedFactors<Settings>;
  static_assert(sizeof(X) <= sizeof ToldFactors::word && sizeof(Told) == sizeof ToldFactors::word);
  static_assert(std::is_trivially_copyable_v<Told> && offsetof(Told, by) == kMoveWord * sizeof(std::uint64_t));
  if (ToldFactors* told = factors_wanted()) {
    std::memcpy(told->word, &settings, sizeof settings);
    told->counted = counted;
    told->step = step;
    return;
  }
  const FactorPlaces there = factors_there();
  if (!there.told) return launch_with(Factors<X>{settings.at(step), nullptr});
  auto* folded = reinterpret_cast<X*>(there.folded);
  launch({1, 1}, fold_kernel<Settings, X>, reinterpret_cast<const Told*>(there.told), folded);
  launch_with(Factors<X>{X(), folded});
}

}  // namespace gk::cuda
