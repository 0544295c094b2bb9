// Allocation as in the caching allocators of deep-learning libraries: best fit, cut, join. What a process keeps is
// bounded by a quarter more than it had in use at one time, so that its memory does not creep beyond its own peak.
#include "memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace gk::cpu {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t(2) << 20;
constexpr std::size_t kLarge = std::size_t(1) << 20;  // and the smallest piece worth cutting off
constexpr std::size_t kSpare = std::size_t(64) << 20;
constexpr std::size_t kRange = std::size_t(8) << 30;

// Small: eight capacities per doubling, so that arrays of almost one size share blocks. Large: whole pages.
std::size_t capacity_for(std::size_t bytes) {
  std::size_t unit = kLine;
  while (bytes < kLarge && unit * 16 < bytes) unit *= 2;
  if (bytes >= kLarge) unit = 4096;
  return (std::max(bytes, kLine) + unit - 1) / unit * unit;
}

void* fresh_memory(std::size_t size) {
  void* memory = nullptr;
  if (posix_memalign(&memory, size >= kHugePage ? kHugePage : kLine, size) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (size >= kHugePage) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

// Addresses without memory: pages come with the first write. nullptr where the system does not give so many.
char* reserve_addresses(std::size_t size) {
#if defined(MAP_NORESERVE)
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(data);
#else
  static_cast<void>(size);
  return nullptr;
#endif
}

void free_addresses(char* data, std::size_t size) {
#if defined(MAP_NORESERVE)
  munmap(data, size);
#else
  static_cast<void>(data), static_cast<void>(size);
#endif
}

}  // namespace

void* MemoryPool::acquire(std::size_t bytes, std::size_t* capacity) {
  *capacity = capacity_for(bytes);
  if (*capacity < bytes) throw std::bad_alloc();
  std::lock_guard<std::mutex> lock(mutex_);
  void* block = *capacity < kLarge ? small(*capacity) : large(*capacity);
  stats_.live += *capacity;
  stats_.peak = std::max(stats_.peak, stats_.live);
  return block;
}

void MemoryPool::release(void* block, std::size_t capacity) {
  std::lock_guard<std::mutex> lock(mutex_);
  stats_.live -= capacity;
  stats_.cached += capacity;
  if (capacity < kLarge) {
    lists_[capacity].push_back({block, ++clock_});
    return;
  }
  const auto lease = leased_.find(block);
  Piece* piece = lease->second;
  leased_.erase(lease);
  piece->since = ++clock_;
  if (piece->after && free_.erase({piece->after->size, piece->after})) join(piece);
  if (piece->before && free_.erase({piece->before->size, piece->before})) {
    piece = piece->before;
    join(piece);
    piece->since = clock_;
  }
  free_.insert({piece->size, piece});
}

void MemoryPool::trim(std::size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  evict(bytes);
}

MemoryStats MemoryPool::stats() {
  std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void* MemoryPool::small(std::size_t capacity) {
  const auto found = lists_.find(capacity);
  if (found == lists_.end()) return from_system(capacity);
  void* block = found->second.back().block;
  found->second.pop_back();
  if (found->second.empty()) lists_.erase(found);
  stats_.cached -= capacity;
  ++stats_.reused;
  return block;
}

void* MemoryPool::large(std::size_t capacity) {
  const auto found = free_.lower_bound({capacity, nullptr});
  Piece* piece;
  if (found != free_.end()) {
    piece = found->second;
    free_.erase(found);
    stats_.cached -= capacity;
    ++stats_.reused;
    if (piece->size - capacity >= kLarge) cut(piece, capacity);
  } else if (!keeps_everything_ || !(piece = from_range(capacity))) {
    const std::size_t size = (capacity + kHugePage - 1) / kHugePage * kHugePage;
    piece = new Piece{static_cast<char*>(from_system(size)), size, nullptr, nullptr, 0};
    stats_.cached += size - capacity;
    if (size - capacity >= kLarge) cut(piece, capacity);
  }
  leased_[piece->data] = piece;
  return piece->data;
}

// What is free at the end grows; nullptr without addresses.
MemoryPool::Piece* MemoryPool::from_range(std::size_t capacity) {
  const bool grows = top_ && free_.count({top_->size, top_}) != 0;
  const std::size_t there = grows ? top_->size : 0;
  if (ranges_.empty() || ranges_.back().size - ranges_.back().used < capacity - there)
    return add_range(capacity) ? from_range(capacity) : nullptr;
  Range& range = ranges_.back();
  if (grows) {
    free_.erase({there, top_});
    stats_.cached -= there;
    top_->size = capacity;
  } else {
    auto* piece = new Piece{range.data + range.used, capacity, top_, nullptr, 0};
    if (top_) top_->after = piece;
    top_ = piece;
  }
  range.used += capacity - there;
  ++stats_.fresh;
  return top_;
}

bool MemoryPool::add_range(std::size_t capacity) {
  const std::size_t size = std::max(kRange, capacity + kHugePage);
  char* data = reserve_addresses(size);
  if (!data) return false;
  const std::size_t aligned = (kHugePage - reinterpret_cast<std::uintptr_t>(data) % kHugePage) % kHugePage;
  ranges_.push_back({data, size, aligned});
  top_ = nullptr;
  return true;
}

void* MemoryPool::from_system(std::size_t size) {
  if (!keeps_everything_) {
    const std::size_t bound = std::max(stats_.peak, stats_.live + size) / 4 * 5 + kSpare;
    const std::size_t after = stats_.live + size + stats_.cached;
    if (after > bound) evict(stats_.cached - std::min(stats_.cached, after - bound));
  }
  void* memory = fresh_memory(size);
  if (!memory && !keeps_everything_) {
    evict(0);
    memory = fresh_memory(size);
  }
  if (!memory) throw std::bad_alloc();
  ++stats_.fresh;
  return memory;
}

void MemoryPool::cut(Piece* piece, std::size_t size) {
  auto* rest = new Piece{piece->data + size, piece->size - size, piece, piece->after, piece->since};
  if (piece->after) piece->after->before = rest;
  if (piece == top_) top_ = rest;
  piece->after = rest;
  piece->size = size;
  free_.insert({rest->size, rest});
}

void MemoryPool::join(Piece* piece) {
  Piece* rest = piece->after;
  if (rest == top_) top_ = piece;
  piece->size += rest->size;
  piece->after = rest->after;
  if (rest->after) rest->after->before = piece;
  delete rest;
}

// The first of a list has waited longest: blocks are taken from its end. Pieces go with their whole segment.
void MemoryPool::evict(std::size_t bytes) {
  while (stats_.cached > bytes) {
    auto oldest = lists_.begin();
    for (auto list = lists_.begin(); list != lists_.end(); ++list)
      if (list->second.front().since < oldest->second.front().since) oldest = list;
    Piece* segment = nullptr;
    for (const auto& [size, piece] : free_)
      if (!piece->before && !piece->after && (!segment || piece->since < segment->since)) segment = piece;
    const bool has_list = oldest != lists_.end();
    if (segment && (!has_list || segment->since < oldest->second.front().since)) {
      free_.erase({segment->size, segment});
      stats_.cached -= segment->size;
      give_back(segment);
    } else if (has_list) {
      std::free(oldest->second.front().block);
      stats_.cached -= oldest->first;
      oldest->second.erase(oldest->second.begin());
      if (oldest->second.empty()) lists_.erase(oldest);
    } else {
      return;
    }
  }
}

void MemoryPool::give_back(Piece* segment) {
  const auto range = std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& r) {
    return segment->data >= r.data && segment->data < r.data + r.size;
  });
  if (range == ranges_.end()) {
    std::free(segment->data);
  } else {
    free_addresses(range->data, range->size);
    ranges_.erase(range);
  }
  if (segment == top_) top_ = nullptr;
  delete segment;
}

}  // namespace gk::cpu
