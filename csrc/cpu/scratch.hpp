// Working memory of kernels, aligned to cache lines. A released block stays with its thread for the next call, because
// the page faults of a fresh block cost as much as packing a layer into it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gk::cpu {

void* acquire_scratch(std::size_t bytes, std::size_t* capacity);
void release_scratch(void* block, std::size_t capacity);

template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : data_(static_cast<T*>(acquire_scratch(static_cast<std::size_t>(count) * sizeof(T), &capacity_))) {}
  ~Scratch() { release_scratch(data_, capacity_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get() const { return data_; }

 private:
  std::size_t capacity_ = 0;
  T* data_;
};

}  // namespace gk::cpu
