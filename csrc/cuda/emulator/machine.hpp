// A CUDA device on the processor, for tests: one fiber per CUDA thread, one block at a time, a barrier is a switch to
// the scheduler. Threads run in a shuffled order, so that code which lacks a barrier reads what is not there yet; every
// access to shared and global memory is also checked (shadow.cpp), so that it is reported whatever the order was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace gk::emulator {

// A defect of a kernel: a race, an access outside an array, a barrier that not all threads reach.
struct EmulatorError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Site {
  const char* file;
  int line;
  std::string text() const;  // "reduce.cu:42"
  bool operator==(const Site& o) const;
};

constexpr unsigned kWarp = 32;
constexpr size_t kSlotBytes = 64;          // what one lane can hand to its warp
constexpr size_t kMaxShared = 227 * 1024;  // of one block on sm_90

// ---- the host's side -----------------------------------------------------------------------------------------------
// Runs body(context) once for each thread of the grid; `where` is the launching line, for messages.
void launch(dim3 grid, dim3 block, size_t dynamic_shared, void (*body)(const void*), const void* context,
            const std::string& where);

void set_seed(uint64_t seed);                     // 0: threads run in order
void set_checks(bool on);                         // races and bounds; on by default
std::vector<std::string> barriers();              // every __syncthreads that has been reached, as "file:line"
void skip_barrier(const std::string& file_line);  // as if that line, or every cp_async_wait, were removed; "" none

// ---- the kernel's side: what the CUDA names of model.hpp are made of -----------------------------------------------
// Constant while a thread lives, hence gnu::const; out of line, so that no check sees the emulator's own memory.
[[gnu::const]] dim3 thread_index();
[[gnu::const]] dim3 block_index();
[[gnu::const]] dim3 block_extent();
[[gnu::const]] dim3 grid_extent();
[[gnu::const]] unsigned lane();

void block_barrier(const char* file, int line);
void warp_barrier(uint32_t mask, const char* file, int line);

// Every lane of `mask` puts `bytes` from `value` where the others of its warp see them; then reads lane `from`'s.
void exchange(uint32_t mask, const void* value, void* result, size_t bytes, unsigned from, const char* file, int line);
// The same for all 32 lanes at once: result holds 32 * bytes.
void exchange_all(uint32_t mask, const void* value, void* result, size_t bytes, const char* file, int line);

// tensor_core.cuh's instructions; registers as there
void tensor_core_bf16(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line);
void tensor_core_tf32(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line);
void load_matrices(uint32_t* result, unsigned count, bool transposed, const void* row, const char* file, int line);

unsigned char* dynamic_shared();
// The block's array of a `GK_SHARED` line, the same for all its threads.
void* static_shared(const void* site, size_t bytes);

// cp.async: the copy happens at the wait, not before; until then the target holds NaN.
void copy_async(void* target, const void* source, size_t bytes, size_t valid_bytes);
void copy_commit();
void copy_wait(unsigned groups_left);

[[noreturn]] void fail(const std::string& what);

// ---- between the machine and its memory check ----------------------------------------------------------------------
struct Running {  // the thread that runs now
  uint32_t launch, block, thread, block_epoch, warp_epoch;
};
const Running* running();                           // null outside a kernel
std::pair<unsigned char*, size_t> shared_memory();  // of the block: first byte, bytes in use
constexpr size_t kSharedArena = 256 * 1024;
void check_access(const void* address, size_t bytes, size_t alignment, bool write);
// Device memory is cut from one range of addresses; an array is what was marked live, byte by byte.
void* reserve_device_memory(size_t bytes);
void release_device_memory(void* address, size_t bytes);
void mark_live(const void* address, size_t bytes);
void mark_dead(const void* address, size_t bytes);

// From now on no graph can be captured.
void refuse_graphs(bool refused);

// What the host asked of the device so far.
struct Traffic {
  size_t queued = 0;  // kernels, copies and fills, one by one
  size_t graphs = 0;  // started
  size_t waits = 0;
};
Traffic traffic();

}  // namespace gk::emulator
