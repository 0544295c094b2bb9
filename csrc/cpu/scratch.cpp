// Scratch blocks: a short list per thread of blocks to use again, bounded in number and in bytes.
#include "scratch.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gk::cpu {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t(2) << 20;
constexpr std::size_t kKeptBlocks = 32;
constexpr std::size_t kKeptBytes = std::size_t(1) << 30;

struct Block {
  void* data;
  std::size_t capacity;
};

struct Kept {
  std::vector<Block> blocks;
  std::size_t bytes = 0;
  ~Kept() {
    for (const Block& b : blocks) std::free(b.data);
  }
};

thread_local Kept kept;

}  // namespace

void* acquire_scratch(std::size_t bytes, std::size_t* capacity) {
  auto best = kept.blocks.end();
  for (auto b = kept.blocks.begin(); b != kept.blocks.end(); ++b)
    if (b->capacity >= bytes && (best == kept.blocks.end() || b->capacity < best->capacity)) best = b;
  if (best != kept.blocks.end() && best->capacity / 4 <= bytes + kHugePage) {
    void* data = best->data;
    *capacity = best->capacity;
    kept.bytes -= best->capacity;
    kept.blocks.erase(best);
    return data;
  }
  const std::size_t unit = bytes >= kHugePage ? kHugePage : kLine;
  const std::size_t size = (std::max<std::size_t>(bytes, kLine) + unit - 1) / unit * unit;
  if (size < bytes) throw std::bad_alloc();
  void* data = std::aligned_alloc(unit, size);
  if (!data) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (unit == kHugePage) madvise(data, size, MADV_HUGEPAGE);
#endif
  *capacity = size;
  return data;
}

void release_scratch(void* block, std::size_t capacity) {
  if (!block) return;
  if (capacity > kKeptBytes) return std::free(block);
  while (!kept.blocks.empty() && (kept.blocks.size() >= kKeptBlocks || kept.bytes + capacity > kKeptBytes)) {
    std::free(kept.blocks.front().data);
    kept.bytes -= kept.blocks.front().capacity;
    kept.blocks.erase(kept.blocks.begin());
  }
  kept.blocks.push_back({block, capacity});
  kept.bytes += capacity;
}

}  // namespace gk::cpu
