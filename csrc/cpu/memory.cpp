// Blocks by capacity: a request takes the smallest cached block that wastes at most a quarter of it. The cache is
// bounded by what was once in use at the same time, so that a process does not grow beyond its own peak by much.
#include "memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gk::cpu {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t(2) << 20;
constexpr std::size_t kSpare = std::size_t(64) << 20;

// Eight capacities per doubling, so that arrays of almost one size share blocks.
std::size_t capacity_for(std::size_t bytes) {
  std::size_t unit = kLine;
  while (unit * 16 < bytes) unit *= 2;
  return (std::max(bytes, kLine) + unit - 1) / unit * unit;
}

void* fresh_block(std::size_t capacity) {
  void* block = nullptr;
  if (posix_memalign(&block, capacity >= kHugePage ? kHugePage : kLine, capacity) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (capacity >= kHugePage) madvise(block, capacity, MADV_HUGEPAGE);
#endif
  return block;
}

}  // namespace

void* MemoryPool::acquire(std::size_t bytes, std::size_t* capacity) {
  const std::size_t wanted = capacity_for(bytes);
  if (wanted < bytes) throw std::bad_alloc();
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = free_.lower_bound(wanted);
  void* block;
  if (found != free_.end() && found->first <= wanted + wanted / 4) {
    *capacity = found->first;
    block = found->second.back().block;
    found->second.pop_back();
    if (found->second.empty()) free_.erase(found);
    stats_.cached -= *capacity;
    ++stats_.reused;
  } else {
    *capacity = wanted;
    if (!keeps_everything_) {
      const std::size_t bound = std::max(stats_.peak, stats_.live + wanted) / 4 * 5 + kSpare;
      const std::size_t after = stats_.live + wanted + stats_.cached;
      if (after > bound) evict(stats_.cached - std::min(stats_.cached, after - bound));
    }
    block = fresh_block(wanted);
    if (!block) {
      evict(0);
      block = fresh_block(wanted);
    }
    if (!block) throw std::bad_alloc();
    ++stats_.fresh;
  }
  stats_.live += *capacity;
  stats_.peak = std::max(stats_.peak, stats_.live);
  return block;
}

void MemoryPool::release(void* block, std::size_t capacity) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.live -= capacity;
  stats_.cached += capacity;
  free_[capacity].push_back({block, ++clock_});
}

void MemoryPool::trim(std::size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  evict(bytes);
}

MemoryStats MemoryPool::stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

// The first of a list has waited longest: blocks are taken from its end.
void MemoryPool::evict(std::size_t bytes) {
  while (stats_.cached > bytes) {
    auto oldest = free_.begin();
    for (auto entry = free_.begin(); entry != free_.end(); ++entry)
      if (entry->second.front().since < oldest->second.front().since) oldest = entry;
    std::free(oldest->second.front().block);
    stats_.cached -= oldest->first;
    oldest->second.erase(oldest->second.begin());
    if (oldest->second.empty()) free_.erase(oldest);
  }
}

}  // namespace gk::cpu
