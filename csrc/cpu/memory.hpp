// Memory of arrays: blocks aligned to cache lines, large ones to huge pages, that are used again once their array has
// died. The operating system clears every fresh page, which costs a training step more than the arithmetic on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace gk::cpu {

struct MemoryStats {
  std::size_t live = 0;                 // bytes of arrays that exist
  std::size_t cached = 0;               // bytes kept for arrays to come
  std::size_t peak = 0;                 // largest `live` so far
  std::uint64_t fresh = 0, reused = 0;  // blocks from the system, blocks used again
};

// Small blocks wait in lists, one for each of eight sizes per doubling. Large ones are cut from the smallest free piece
// that holds them and joined with free neighbours afterwards, so that arrays of different sizes share memory.
class MemoryPool {
 public:
  // A pool that keeps everything returns nothing before it dies; its large pieces lie in one range of addresses, where
  // any neighbours join. The cache of others is bounded by what was once in use.
  explicit MemoryPool(bool keeps_everything = false) : keeps_everything_(keeps_everything) {}
  ~MemoryPool() { trim(0); }
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  void* acquire(std::size_t bytes, std::size_t* capacity);
  void release(void* block, std::size_t capacity);
  void trim(std::size_t bytes);  // frees what can be freed, oldest first, until so many bytes are cached
  MemoryStats stats();

 private:
  struct Cached {
    void* block;
    std::uint64_t since;
  };
  struct Range {  // of addresses; pages cost nothing before they are written to
    char* data;
    std::size_t size, used;
  };
  struct Piece {  // of a segment from the system, which may be a range
    char* data;
    std::size_t size;
    Piece *before, *after;  // in the segment
    std::uint64_t since;
  };

  void* small(std::size_t capacity);
  void* large(std::size_t capacity);
  void* from_system(std::size_t capacity);
  Piece* from_range(std::size_t capacity);
  bool add_range(std::size_t capacity);
  void cut(Piece* piece, std::size_t size);
  void join(Piece* piece);  // with the one after it
  void evict(std::size_t bytes);
  void give_back(Piece* segment);

  const bool keeps_everything_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<Cached>> lists_;  // small, by capacity
  std::set<std::pair<std::size_t, Piece*>> free_;     // large, by size
  std::map<const void*, Piece*> leased_;              // large, by address
  std::vector<Range> ranges_;                         // pieces are added to the last one
  Piece* top_ = nullptr;                              // the last piece of the last range
  std::uint64_t clock_ = 0;
  MemoryStats stats_;
};

}  // namespace gk::cpu
