// Memory of arrays: blocks aligned to cache lines, large ones to huge pages, that are used again once their array has
// died. The operating system clears every fresh page, which costs a training step more than the arithmetic on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace gk::cpu {

struct MemoryStats {
  std::size_t live = 0;                 // bytes of arrays that exist
  std::size_t cached = 0;               // bytes kept for arrays to come
  std::size_t peak = 0;                 // largest `live` so far
  std::uint64_t fresh = 0, reused = 0;  // blocks from the system, blocks used again
};

class MemoryPool {
 public:
  // A pool that keeps everything never returns a block before it dies.
  explicit MemoryPool(bool keeps_everything = false) : keeps_everything_(keeps_everything) {}
  ~MemoryPool() { trim(0); }
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void* acquire(std::size_t bytes, std::size_t* capacity);
  void release(void* block, std::size_t capacity);
  void trim(std::size_t bytes);  // frees the oldest cached blocks until so many bytes are cached
  MemoryStats stats();

 private:
  struct Cached {
    void* block;
    std::uint64_t since;
  };

  void evict(std::size_t bytes);

  const bool keeps_everything_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<Cached>> free_;  // by capacity
  std::uint64_t clock_ = 0;
  MemoryStats stats_;
};

}  // namespace gk::cpu
