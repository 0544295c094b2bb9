// The cache: blocks by size, in classes an eighth of a power of two apart, so that a block wastes 12 % at most.
// Training asks for the same sizes in every step and finds all of them here after the first.
#include "memory.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

namespace gk::cuda {
namespace {

constexpr size_t kAlignment = 512;  // of every block, and the smallest
constexpr size_t kStagingBytes = size_t(4) << 20;

size_t block_size(size_t bytes) {
  size_t power = kAlignment;
  while (power * 2 <= bytes) power *= 2;
  const size_t step = std::max(kAlignment, power / 8);
  return std::max(kAlignment, (bytes + step - 1) / step * step);
}

std::string amount(size_t bytes) {
  const bool large = bytes >= size_t(1) << 30;
  char text[32];
  std::snprintf(text, sizeof text, large ? "%.2f GiB" : "%.2f MiB",
                static_cast<double>(bytes) / (large ? 1 << 30 : 1 << 20));
  return text;
}

class Cache {
 public:
  void* take(size_t bytes, size_t* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t wanted = block_size(bytes);
    void* p = free_.take(wanted, block);
    if (!p) p = fresh(wanted, bytes, block);
    stats_.in_use += bytes;
    stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
    ++stats_.allocations;
    ++stats_.live_arrays;
    memory_handed_out(p, bytes);
    return p;
  }

  void give_back(void* p, size_t bytes, size_t block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    memory_taken_back(p, bytes);
    stats_.in_use -= bytes;
    --stats_.live_arrays;
    free_.put(p, block);
  }

  void empty() {
    const std::lock_guard<std::mutex> lock(mutex_);
    release_all();
  }

  MemoryStatistics stats() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.peak_in_use = stats_.in_use;
    stats_.peak_reserved = stats_.reserved;
  }
  void set_limit(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.limit = bytes;
  }

 private:
  void* fresh(size_t wanted, size_t bytes, size_t* block) {
    void* p = from_device(wanted);
    if (!p) {
      release_all();
      p = from_device(wanted);
    }
    if (!p) throw OutOfMemory(refusal(bytes));
    *block = wanted;
    return p;
  }

  void* from_device(size_t wanted) {
    if (stats_.limit && stats_.reserved + wanted > stats_.limit) return nullptr;
    void* p = device_allocate(wanted);
    if (!p) return nullptr;
    stats_.reserved += wanted;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    ++stats_.from_device;
    return p;
  }

  void release_all() {
    for (auto& [block, addresses] : free_.all())
      for (void* p : addresses) {
        device_release(p, block);
        stats_.reserved -= block;
      }
    free_.all().clear();
  }

  std::string refusal(size_t bytes) const {
    size_t free_bytes = 0, total = 0;
    device_memory(&free_bytes, &total);
    size_t room = free_bytes + stats_.reserved;
    if (stats_.limit) room = std::min(room, stats_.limit);
    const auto percent =
        static_cast<int>(100.0 * static_cast<double>(room) / static_cast<double>(stats_.in_use + bytes));
    return "out of device memory: an array of " + amount(bytes) + " was asked for; arrays hold " +
           amount(stats_.in_use) + ", the device has " + amount(free_bytes) + " free of " + amount(total) +
           (stats_.limit ? ", the limit is " + amount(stats_.limit) : std::string()) + ". At most " +
           std::to_string(std::min(percent, 99)) + " % of this batch fits";
  }

  std::mutex mutex_;
  FreeBlocks free_;
  MemoryStatistics stats_;
};

Cache& cache() {
  static auto* c = new Cache;  // never destroyed: arrays may be given back while Python ends
  return *c;
}

thread_local std::shared_ptr<Arena> t_arena;

// Two pinned buffers: one is filled or read by the host while the device reads or fills the other.
class Staging {
 public:
  template <class Move>
  void in_pieces(size_t bytes, Move&& move) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& b : buffer_)
      if (!b) b = static_cast<char*>(pinned_allocate(kStagingBytes));
    for (size_t at = 0; at < bytes; at += kStagingBytes) {
      const int turn = turn_ ^= 1;
      move(buffer_[turn], at, std::min(kStagingBytes, bytes - at), turn);
    }
  }

 private:
  std::mutex mutex_;
  char* buffer_[2] = {};
  int turn_ = 0;
};

Staging& staging() {
  static auto* s = new Staging;
  return *s;
}

}  // namespace

MemoryStatistics memory_statistics() { return cache().stats(); }
void reset_peak_memory() { cache().reset_peak(); }
void set_memory_limit(size_t bytes) { cache().set_limit(bytes); }
void empty_cache() {
  synchronize();
  cache().empty();
}

void* FreeBlocks::take(size_t wanted, size_t* block) {
  for (auto it = free_.lower_bound(wanted); it != free_.end() && it->first <= wanted + wanted / 4; ++it) {
    if (it->second.empty()) continue;
    void* p = it->second.back();
    it->second.pop_back();
    *block = it->first;
    return p;
  }
  return nullptr;
}

void* Arena::take(size_t bytes, size_t* block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t wanted = block_size(bytes);
  if (void* p = free_.take(wanted, block)) {
    memory_handed_out(p, *block);
    return p;
  }
  Kept kept{nullptr, wanted, 0};
  kept.address = cache().take(wanted, &kept.block);
  kept_.push_back(kept);
  *block = wanted;
  return kept.address;
}
void Arena::give_back(void* p, size_t block) {
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.put(p, block);
}
size_t Arena::bytes() {
  const std::lock_guard<std::mutex> lock(mutex_);
  size_t sum = 0;
  for (const Kept& kept : kept_) sum += kept.bytes;
  return sum;
}
Arena::~Arena() {
  for (const Kept& kept : kept_) cache().give_back(kept.address, kept.bytes, kept.block);
}

FromArena::FromArena(std::shared_ptr<Arena> arena) : before_(std::move(arena)) { std::swap(before_, t_arena); }
FromArena::~FromArena() { std::swap(before_, t_arena); }

Buffer::Buffer(size_t bytes) : arena_(t_arena), bytes_(bytes) {
  if (bytes > 0) address_ = arena_ ? arena_->take(bytes, &block_) : cache().take(bytes, &block_);
}
Buffer::~Buffer() {
  if (!address_) return;
  if (arena_)
    arena_->give_back(address_, block_);
  else
    cache().give_back(address_, bytes_, block_);
}

void upload(void* device, const void* host, size_t bytes) {
  staging().in_pieces(bytes, [&](char* pinned, size_t at, size_t n, int turn) {
    wait_for_mark(turn);  // until the device has read what the buffer held
    std::memcpy(pinned, static_cast<const char*>(host) + at, n);
    copy_to_device(static_cast<char*>(device) + at, pinned, n);
    mark(turn);
  });
}

void download(void* host, const void* device, size_t bytes) {
  char* pending = nullptr;  // the piece that the device still writes
  size_t pending_at = 0, pending_bytes = 0;
  int pending_turn = 0;
  const auto finish = [&] {
    if (!pending) return;
    wait_for_mark(pending_turn);
    std::memcpy(static_cast<char*>(host) + pending_at, pending, pending_bytes);
  };
  staging().in_pieces(bytes, [&](char* pinned, size_t at, size_t n, int turn) {
    wait_for_mark(turn);
    copy_to_host(pinned, static_cast<const char*>(device) + at, n);
    mark(turn);
    finish();
    pending = pinned, pending_at = at, pending_bytes = n, pending_turn = turn;
  });
  finish();
}

}  // namespace gk::cuda
