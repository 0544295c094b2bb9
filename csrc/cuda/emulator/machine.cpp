// Fibers, barriers and the scheduler. A fiber that fails is left where it stands: its error is thrown by launch().
#include "machine.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace gk::emulator {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr unsigned kMaxThreads = 1024;

// ---- switching stacks: by hand where swapcontext would make a system call for each switch -------------------------
#if defined(__x86_64__)
extern "C" void gk_emulator_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.hidden gk_emulator_switch
.globl gk_emulator_switch
.type gk_emulator_switch, @function
gk_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gk_emulator_switch, .-gk_emulator_switch
)");

struct Context {
  void* stack_pointer = nullptr;

  void start_at(unsigned char* stack, size_t bytes, void (*entry)()) {
    auto top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15);
    auto* slot = reinterpret_cast<void**>(top);
    *--slot = nullptr;                         // where `entry` would return to: keeps the stack aligned for a call
    *--slot = reinterpret_cast<void*>(entry);  // what the switch returns to
    for (int i = 0; i < 6; ++i) *--slot = nullptr;
    stack_pointer = slot;
  }
  static void swap(Context& from, Context& to) { gk_emulator_switch(&from.stack_pointer, to.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;

  void start_at(unsigned char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct PendingCopy {
  void* target;
  const void* source;
  size_t bytes, valid_bytes;
  unsigned group;
};

struct Thread {
  Context context;
  State state;
  Running id;
  dim3 index;
  uint32_t warp_mask;
  Site site;
  unsigned parity;  // which of the two slots the next exchange uses
  unsigned copy_group;
  std::vector<PendingCopy> copies;
  alignas(16) unsigned char slot[2][kSlotBytes];
};

struct Machine {
  std::mutex one_launch_at_a_time;
  unsigned char* stacks = nullptr;
  std::unique_ptr<Thread[]> threads{new Thread[kMaxThreads]};
  Context scheduler;
  Thread* current = nullptr;

  void (*body)(const void*) = nullptr;
  const void* context = nullptr;
  std::string where;
  dim3 grid, block, block_id;
  unsigned count = 0;  // threads of the block
  size_t dynamic_bytes = 0, shared_bytes = 0;
  alignas(1024) unsigned char shared[kSharedArena];
  std::vector<std::pair<const void*, size_t>> static_arrays;  // site -> offset

  uint32_t launches = 0, block_epoch = 0;
  uint64_t seed = 1;
  std::string error;
  std::vector<Site> sites;
  std::string skipped;
  bool any_skipped = false;
};

Machine& machine() {
  static auto* m = new Machine;  // never destroyed: a fiber may be left in it
  return *m;
}
// Read by every memory check: a plain global, not a function with a guard.
Running* g_running = nullptr;

void yield() {
  Machine& m = machine();
  Thread* self = m.current;
  Context::swap(self->context, m.scheduler);
}

void thread_main() {
  Machine& m = machine();
  m.body(m.context);
  if (!m.current->copies.empty()) fail("a thread ends with copies (cp.async) that it never waited for");
  m.current->state = State::done;
  yield();
}

const char* base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

// ---- releasing barriers -----------------------------------------------------------------------------------------
bool release_warps(Machine& m) {
  bool any = false;
  for (unsigned first = 0; first < m.count; first += kWarp) {
    const unsigned lanes = std::min(kWarp, m.count - first);
    uint32_t waiting = 0;
    for (unsigned i = 0; i < lanes; ++i)
      if (m.threads[first + i].state == State::at_warp_barrier) waiting |= 1u << i;
    for (unsigned i = 0; i < lanes; ++i) {
      Thread& t = m.threads[first + i];
      if (t.state != State::at_warp_barrier) continue;
      const uint32_t mask = lanes == kWarp ? t.warp_mask : t.warp_mask & ((1u << lanes) - 1);
      if ((mask & waiting) != mask) continue;
      for (unsigned j = 0; j < lanes; ++j) {
        Thread& other = m.threads[first + j];
        if (!(mask >> j & 1)) continue;
        if (!(other.site == t.site)) {
          m.error = "the lanes of a warp meet at different operations: " + t.site.text() + " and " + other.site.text();
          return false;
        }
      }
      for (unsigned j = 0; j < lanes; ++j) {
        if (!(mask >> j & 1)) continue;
        Thread& other = m.threads[first + j];
        other.state = State::ready;
        other.parity ^= 1;
        ++other.id.warp_epoch;
      }
      waiting &= ~mask;
      any = true;
    }
  }
  return any;
}

bool release_block(Machine& m) {
  const Thread* first = nullptr;
  for (unsigned i = 0; i < m.count; ++i) {
    const Thread& t = m.threads[i];
    if (t.state == State::done) continue;
    if (t.state != State::at_block_barrier) return false;
    if (!first) first = &t;
    if (!(t.site == first->site)) {
      m.error = "divergent __syncthreads: some threads wait at " + first->site.text() + ", others at " + t.site.text();
      return false;
    }
  }
  if (!first) return false;
  ++m.block_epoch;
  for (unsigned i = 0; i < m.count; ++i) {
    Thread& t = m.threads[i];
    if (t.state == State::at_block_barrier) t.state = State::ready, t.id.block_epoch = m.block_epoch;
  }
  return true;
}

void run_block(Machine& m, uint32_t block_number, std::minstd_rand& random) {
  m.block_epoch = 0;
  m.shared_bytes = m.dynamic_bytes;
  m.static_arrays.clear();
  std::memset(m.shared, 0xff, m.dynamic_bytes);  // NaN, -1, true; static arrays when they appear
  unsigned order[kMaxThreads];
  for (unsigned i = 0; i < m.count; ++i) {
    order[i] = i;
    Thread& t = m.threads[i];
    t.context.start_at(m.stacks + i * kStackBytes, kStackBytes, thread_main);
    t.state = State::ready;
    t.id = {m.launches, block_number, i, 0, 0};
    t.index = dim3(i % m.block.x, i / m.block.x % m.block.y, i / (m.block.x * m.block.y));
    t.parity = t.copy_group = 0;
    t.copies.clear();
  }
  for (;;) {
    if (m.seed) std::shuffle(order, order + m.count, random);
    bool ran = false;
    for (unsigned i = 0; i < m.count; ++i) {
      Thread& t = m.threads[order[i]];
      if (t.state != State::ready) continue;
      m.current = &t;
      g_running = &t.id;
      Context::swap(m.scheduler, t.context);
      g_running = nullptr;
      if (!m.error.empty()) return;
      ran = true;
    }
    const bool released = release_warps(m) || (m.error.empty() && release_block(m));
    if (!m.error.empty()) return;
    if (released) continue;
    const bool finished =
        std::all_of(m.threads.get(), m.threads.get() + m.count, [](const Thread& t) { return t.state == State::done; });
    if (finished) return;
    if (!ran) {
      m.error = "a barrier is not reached by all threads:";
      for (unsigned i = 0; i < m.count; ++i)
        if (m.threads[i].state != State::done) {
          m.error += " thread " + std::to_string(i) + " waits at " + m.threads[i].site.text();
          break;
        }
      return;
    }
  }
}

}  // namespace

std::string Site::text() const { return std::string(base_name(file)) + ":" + std::to_string(line); }
bool Site::operator==(const Site& o) const { return line == o.line && std::strcmp(file, o.file) == 0; }

void launch(dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(const void*), const void* context,
            const std::string& where) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.one_launch_at_a_time);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const auto refuse = [&](const std::string& what) { throw EmulatorError("emulator: " + where + ": " + what); };
  if (threads == 0 || threads > kMaxThreads || block.z > 64)
    refuse("a block of " + std::to_string(threads) + " threads; a block has 1 to 1024");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    refuse("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z) +
           " blocks; each extent is at least 1, y and z at most 65535");
  if (dynamic_shared > kMaxShared)
    refuse(std::to_string(dynamic_shared) + " bytes of shared memory; a block has " + std::to_string(kMaxShared));
  if (!m.stacks)
    m.stacks = static_cast<unsigned char*>(mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  m.body = body;
  m.context = context;
  m.where = where;
  m.grid = grid;
  m.block = block;
  m.count = static_cast<unsigned>(threads);
  m.dynamic_bytes = (dynamic_shared + 15) & ~size_t(15);
  m.error.clear();
  ++m.launches;
  std::minstd_rand random(static_cast<unsigned>(m.seed * 2654435761u + m.launches));
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t b = 0; b < blocks; ++b) {
    const uint64_t number = m.seed % 2 ? blocks - 1 - b : b;  // no block may count on an earlier one
    m.block_id = dim3(static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                      static_cast<unsigned>(number / grid.x / grid.y));
    run_block(m, static_cast<uint32_t>(number), random);
    m.current = nullptr;
    if (!m.error.empty()) refuse(m.error);
  }
}

void set_seed(uint64_t seed) { machine().seed = seed; }

std::vector<std::string> barriers() {
  std::vector<std::string> texts;
  for (const Site& s : machine().sites) texts.push_back(s.text());
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  return texts;
}

void skip_barrier(const std::string& file_line) {
  machine().skipped = file_line;
  machine().any_skipped = !file_line.empty();
}

dim3 thread_index() { return machine().current->index; }
dim3 block_index() { return machine().block_id; }
dim3 block_extent() { return machine().block; }
dim3 grid_extent() { return machine().grid; }
unsigned lane() { return machine().current->id.thread % kWarp; }

void block_barrier(const char* file, int line) {
  Machine& m = machine();
  const Site site{file, line};
  if (std::find(m.sites.begin(), m.sites.end(), site) == m.sites.end()) m.sites.push_back(site);
  if (m.any_skipped && site.text() == m.skipped) return;
  m.current->site = site;
  m.current->state = State::at_block_barrier;
  yield();
}

void warp_barrier(uint32_t mask, const char* file, int line) {
  Thread* t = machine().current;
  if (!(mask >> t->id.thread % kWarp & 1)) fail("a lane takes part in a warp operation whose mask lacks it");
  t->warp_mask = mask;
  t->site = {file, line};
  t->state = State::at_warp_barrier;
  yield();
}

namespace {
// What a lane handed over at the barrier that was just released: its parity has flipped since.
const unsigned char* handed_over(const Thread* self, unsigned lane_number) {
  const unsigned thread = self->id.thread / kWarp * kWarp + lane_number;
  const Thread* other = thread < machine().count ? &machine().threads[thread] : self;
  return other->slot[other->parity ^ 1];
}
}  // namespace

void exchange(uint32_t mask, const void* value, void* result, size_t bytes, unsigned from, const char* file, int line) {
  Thread* self = machine().current;
  if (!(mask >> from % kWarp & 1)) fail("a lane reads from one that takes no part in the warp operation");
  std::memcpy(self->slot[self->parity], value, bytes);
  warp_barrier(mask, file, line);
  std::memcpy(result, handed_over(self, from % kWarp), bytes);
}

void exchange_all(uint32_t mask, const void* value, void* result, size_t bytes, const char* file, int line) {
  Thread* self = machine().current;
  std::memcpy(self->slot[self->parity], value, bytes);
  warp_barrier(mask, file, line);
  for (unsigned i = 0; i < kWarp; ++i)
    std::memcpy(static_cast<unsigned char*>(result) + i * bytes, handed_over(self, i), bytes);
}

unsigned char* dynamic_shared() { return machine().shared; }

void* static_shared(const void* site, size_t bytes) {
  Machine& m = machine();
  for (const auto& [known, offset] : m.static_arrays)
    if (known == site) return m.shared + offset;
  const size_t offset = m.shared_bytes;
  m.shared_bytes += (bytes + 15) & ~size_t(15);
  if (m.shared_bytes - m.dynamic_bytes > 48 * 1024) fail("more than 48 KiB of static shared memory");
  if (m.shared_bytes > kMaxShared) fail("more shared memory than a block has");
  std::memset(m.shared + offset, 0xff, m.shared_bytes - offset);
  m.static_arrays.emplace_back(site, offset);
  return m.shared + offset;
}

void copy_async(void* target, const void* source, size_t bytes, size_t valid_bytes) {
  Thread* t = machine().current;
  check_access(target, bytes, bytes, true);
  if (valid_bytes) check_access(source, valid_bytes, bytes, false);
  std::memset(target, 0xff, bytes);
  t->copies.push_back({target, source, bytes, valid_bytes, t->copy_group});
}

void copy_commit() { ++machine().current->copy_group; }

void copy_wait(unsigned groups_left) {
  if (machine().any_skipped && machine().skipped == "cp_async_wait") return;
  Thread* t = machine().current;
  size_t kept = 0;
  for (const PendingCopy& c : t->copies) {
    if (c.group + groups_left >= t->copy_group) {
      t->copies[kept++] = c;
      continue;
    }
    check_access(c.target, c.bytes, c.bytes, true);
    std::memcpy(c.target, c.source, c.valid_bytes);
    std::memset(static_cast<unsigned char*>(c.target) + c.valid_bytes, 0, c.bytes - c.valid_bytes);
  }
  t->copies.resize(kept);
}

void fail(const std::string& what) {
  Machine& m = machine();
  const Running& id = m.current->id;
  m.error = what + " (thread " + std::to_string(id.thread) + " of block " + std::to_string(id.block) + ")";
  yield();
  __builtin_unreachable();
}

const Running* running() { return g_running; }
std::pair<unsigned char*, size_t> shared_memory() { return {machine().shared, machine().shared_bytes}; }

}  // namespace gk::emulator
