// Every load and store of the kernels arrives here: the sources are compiled with -fsanitize=thread, whose calls this
// file answers in place of that library. Checked are alignment, bounds, and races: two threads touch the same bytes,
// one of them writes, and no barrier lies between. Each word of memory has a cell that holds the last write and the
// last reads of the running launch, with the barriers passed by then (the epochs of Lamport's ordering). Neighbours
// that share a word have cells of their own: those of its halves, for accesses to less than the word.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "machine.hpp"

namespace gk::emulator {
namespace {

constexpr size_t kDeviceBytes = size_t(16) << 30;  // of addresses; pages are touched only when used
constexpr size_t kWord = 4, kHalf = 2;
constexpr uint8_t kWhole = 3;
constexpr uint8_t kManyWarps = 2, kOneWarp = 1, kOneThread = 0;

struct Record {
  uint32_t launch, block, block_epoch, warp_epoch;
  uint16_t thread;
  uint8_t mask;     // which bytes of a half, or kWhole
  uint8_t readers;  // kOneThread, kOneWarp, kManyWarps
};
struct Cell {
  Record write, read;
};
struct Word {
  Cell cell;
  uint32_t halved;  // the last launch that had access to a part of it
};

void* addresses(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw EmulatorError("emulator: no address space for device memory");
  return p;
}

// whole pages, with a gap behind every array
size_t pages(size_t bytes) { return (bytes + 512 + 4095) / 4096 * 4096; }

struct Memory {
  unsigned char* device = static_cast<unsigned char*>(addresses(kDeviceBytes));
  unsigned char* live = static_cast<unsigned char*>(addresses(kDeviceBytes / 16));  // bytes in use of every 16
  Word* words = static_cast<Word*>(addresses(kDeviceBytes / kWord * sizeof(Word)));
  Cell* halves = static_cast<Cell*>(addresses(kDeviceBytes / kHalf * sizeof(Cell)));
  Word shared_words[kSharedArena / kWord] = {};
  Cell shared_halves[kSharedArena / kHalf] = {};
  unsigned char* next = device;
  std::vector<std::pair<size_t, void*>> released;
  bool checks = true;
};

Memory& memory() {
  static auto* m = new Memory;
  return *m;
}

bool ordered(const Record& before, const Running& now) {
  if (before.block != now.block) return false;
  if (before.thread == now.thread && before.readers == kOneThread) return true;
  if (before.block_epoch != now.block_epoch) return true;
  return before.readers != kManyWarps && before.thread / kWarp == now.thread / kWarp &&
         before.warp_epoch < now.warp_epoch;
}

std::string who(const Record& r) {
  return "thread " + std::to_string(r.thread) + " of block " + std::to_string(r.block);
}

// `own`: the memory is the block's own, what another block did there is past.
void check(const Cell& cell, const Running& now, uint8_t mask, bool write, bool own, size_t offset) {
  const char* space = own ? "shared" : "global";
  const auto clash = [&](const Record& r) {
    return r.launch == now.launch && !(own && r.block != now.block) && (r.mask & mask) && !ordered(r, now);
  };
  if (clash(cell.write))
    fail(std::string("race in ") + space + " memory at byte " + std::to_string(offset) + ": " +
         (write ? "written" : "read") + " here, written by " + who(cell.write) + ", with no barrier between");
  if (write && clash(cell.read))
    fail(std::string("race in ") + space + " memory at byte " + std::to_string(offset) + ": written here, read by " +
         who(cell.read) + ", with no barrier between");
}

void record(Cell& cell, const Running& now, uint8_t mask, bool write) {
  if (write) {
    cell.write = {now.launch, now.block, now.block_epoch, now.warp_epoch, static_cast<uint16_t>(now.thread),
                  mask,       kOneThread};
    return;
  }
  Record& r = cell.read;
  uint8_t readers = kOneThread;
  if (r.launch == now.launch && r.block == now.block && r.block_epoch == now.block_epoch &&
      !(r.readers == kOneThread && r.thread == now.thread)) {
    const bool same_warp = r.readers != kManyWarps && r.thread / kWarp == now.thread / kWarp;
    readers = same_warp ? (r.warp_epoch == now.warp_epoch ? kOneWarp : kOneThread) : kManyWarps;
  }
  r = {now.launch, now.block, now.block_epoch, now.warp_epoch, static_cast<uint16_t>(now.thread), mask, readers};
}

void note(Cell& cell, const Running& now, uint8_t mask, bool write, bool own, size_t offset) {
  check(cell, now, mask, write, own, offset);
  record(cell, now, mask, write);
}

void note_range(Word* words, Cell* halves, size_t offset, size_t bytes, const Running& now, bool write, bool own) {
  const size_t end = offset + bytes;
  for (size_t at = offset; at < end;) {
    Word& word = words[at / kWord];
    const size_t next = std::min((at / kWord + 1) * kWord, end);
    if (next - at == kWord) {
      if (word.halved == now.launch)
        for (size_t half = at / kHalf; half < next / kHalf; ++half) check(halves[half], now, kWhole, write, own, at);
      note(word.cell, now, kWhole, write, own, at);
    } else {
      check(word.cell, now, kWhole, write, own, at);
      word.halved = now.launch;
      for (; at < next; at = (at / kHalf + 1) * kHalf) {
        const size_t n = std::min(kHalf - at % kHalf, next - at);
        note(halves[at / kHalf], now, static_cast<uint8_t>(((1u << n) - 1) << at % kHalf), write, own, at);
      }
    }
    at = next;
  }
}

}  // namespace

void set_checks(bool on) { memory().checks = on; }

void check_access(const void* address, size_t bytes, size_t alignment, bool write) {
  const Running* now = running();
  if (!now) return;
  Memory& m = memory();
  const auto* p = static_cast<const unsigned char*>(address);
  const auto [shared, shared_bytes] = shared_memory();
  const bool in_shared = p >= shared && p < shared + kSharedArena;
  const bool in_device = p >= m.device && p < m.device + kDeviceBytes;
  if (!in_shared && !in_device) return;  // a thread's own stack, or a constant
  const char* space = in_shared ? "shared" : "global";
  const size_t offset = static_cast<size_t>(p - (in_shared ? shared : m.device));
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    fail(std::string("a misaligned ") + (write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes in " +
         space + " memory at byte " + std::to_string(offset));
  if (!m.checks) return;
  bool inside = true;
  if (in_shared) {
    inside = offset + bytes <= shared_bytes;
  } else {
    for (size_t at = offset; at < offset + bytes; at = (at / 16 + 1) * 16)
      inside = inside && std::min(offset + bytes - at / 16 * 16, size_t(16)) <= m.live[at / 16];
  }
  if (!inside)
    fail(std::string(write ? "a write" : "a read") + " of " + std::to_string(bytes) +
         " bytes outside of every array, in " + space + " memory at byte " + std::to_string(offset));
  note_range(in_shared ? m.shared_words : m.words, in_shared ? m.shared_halves : m.halves, offset, bytes, *now, write,
             in_shared);
}

void* reserve_device_memory(size_t bytes) {
  Memory& m = memory();
  bytes = pages(bytes);
  for (size_t i = 0; i < m.released.size(); ++i)
    if (m.released[i].first == bytes) {
      void* p = m.released[i].second;
      m.released.erase(m.released.begin() + static_cast<std::ptrdiff_t>(i));
      return p;
    }
  if (m.next + bytes > m.device + kDeviceBytes) return nullptr;
  void* p = m.next;
  m.next += bytes;
  return p;
}

void release_device_memory(void* address, size_t bytes) {
  bytes = pages(bytes);
  madvise(address, bytes, MADV_DONTNEED);
  memory().released.emplace_back(bytes, address);
}

void mark_live(const void* address, size_t bytes) {
  Memory& m = memory();
  const auto first = static_cast<size_t>(static_cast<const unsigned char*>(address) - m.device);
  std::memset(m.live + first / 16, 16, bytes / 16);
  if (bytes % 16) m.live[(first + bytes) / 16] = static_cast<unsigned char>(bytes % 16);
}

void mark_dead(const void* address, size_t bytes) {
  Memory& m = memory();
  const auto first = static_cast<size_t>(static_cast<const unsigned char*>(address) - m.device);
  std::memset(m.live + first / 16, 0, (bytes + 15) / 16);
}

}  // namespace gk::emulator

// ---- the calls that the compiler puts before every access ----------------------------------------------------------
extern "C" {
#define GK_HOOK(bytes)                                                                              \
  void __tsan_read##bytes(void* p) { gk::emulator::check_access(p, bytes, bytes, false); }          \
  void __tsan_write##bytes(void* p) { gk::emulator::check_access(p, bytes, bytes, true); }          \
  void __tsan_unaligned_read##bytes(void* p) { gk::emulator::check_access(p, bytes, 1, false); }    \
  void __tsan_unaligned_write##bytes(void* p) { gk::emulator::check_access(p, bytes, 1, true); }    \
  void __tsan_volatile_read##bytes(void* p) { gk::emulator::check_access(p, bytes, bytes, false); } \
  void __tsan_volatile_write##bytes(void* p) { gk::emulator::check_access(p, bytes, bytes, true); }
GK_HOOK(1)
GK_HOOK(2)
GK_HOOK(4)
GK_HOOK(8)
GK_HOOK(16)
#undef GK_HOOK
void __tsan_read_range(void* p, unsigned long bytes) { gk::emulator::check_access(p, bytes, 1, false); }
void __tsan_write_range(void* p, unsigned long bytes) { gk::emulator::check_access(p, bytes, 1, true); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
