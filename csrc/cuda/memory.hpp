// Device memory for arrays: a cache in front of the device's own allocator, which takes microseconds to milliseconds
// and waits for the device. All work is on one stream, so memory that was given back can be handed out again at once:
// what the stream does with it comes after what it did before.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime.hpp"

namespace gk::cuda {

struct OutOfMemory : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct MemoryStatistics {
  size_t in_use = 0, peak_in_use = 0;      // bytes of arrays, as they were asked for
  size_t reserved = 0, peak_reserved = 0;  // bytes taken from the device, arrays and cache
  size_t limit = 0;                        // of `reserved`; 0 is none
  size_t allocations = 0, from_device = 0, live_arrays = 0;
};

MemoryStatistics memory_statistics();
void reset_peak_memory();
void set_memory_limit(size_t bytes);
// Gives what no array uses back to the device.
void empty_cache();

// Free blocks by size.
class FreeBlocks {
 public:
  // The smallest that is large enough and not a quarter larger, or null; its size.
  void* take(size_t wanted, size_t* block);
  void put(void* p, size_t block) { free_[block].push_back(p); }
  std::map<size_t, std::vector<void*>>& all() { return free_; }

 private:
  std::map<size_t, std::vector<void*>> free_;
};

// Memory that a recording keeps for its life: a graph names addresses, which nobody else may use between two launches.
class Arena {
 public:
  Arena() = default;
  ~Arena();  // to the cache
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  void* take(size_t bytes, size_t* block);
  void give_back(void* p, size_t block);
  size_t bytes();  // all that it keeps

 private:
  struct Kept {
    void* address;
    size_t bytes, block;
  };
  std::mutex mutex_;
  FreeBlocks free_;
  std::vector<Kept> kept_;
};

// While it exists, this thread's buffers come from an arena; null: from the cache.
class FromArena {
 public:
  explicit FromArena(std::shared_ptr<Arena> arena);
  ~FromArena();

 private:
  std::shared_ptr<Arena> before_;
};

// Memory of one array, given back when this goes.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* address() const { return address_; }
  size_t bytes() const { return bytes_; }
  size_t block() const { return block_; }  // bytes that it occupies

 private:
  std::shared_ptr<Arena> arena_;
  void* address_ = nullptr;
  size_t bytes_ = 0, block_ = 0;
};

// Scratch of a kernel: n values, given back when the caller returns, which the stream's order allows.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t n) : buffer_(static_cast<size_t>(n) * sizeof(T)) {}
  T* data() const { return static_cast<T*>(buffer_.address()); }

 private:
  Buffer buffer_;
};

// Between pageable host memory and the device, through two pinned buffers in turn. `download` waits, `upload` returns
// when the source may change again.
void upload(void* device, const void* host, size_t bytes);
void download(void* host, const void* device, size_t bytes);

}  // namespace gk::cuda
