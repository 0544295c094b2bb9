// What the host asks of the device, without CUDA headers: runtime.cpp answers with the CUDA runtime,
// emulator/runtime.cpp with host memory. All work goes to one stream, in order; nothing here waits unless its name says
// so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#if !defined(GK_EMULATED)
#include <cuda_runtime_api.h>
#endif

namespace gk::cuda {

using std::size_t;

struct Where {
  const char* function;
  const char* file;
  int line;
  std::string text() const;  // "unary (pointwise.cu:42)"
};
#define GK_HERE \
  ::gk::cuda::Where { __func__, __FILE__, __LINE__ }

// A call to CUDA failed; the message carries the call, who made it, and cudaGetErrorName.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct DeviceInfo {
  std::string name;
  int compute_major = 0, compute_minor = 0, multiprocessors = 0;
  size_t memory_bytes = 0;
  int driver_version = 0, runtime_version = 0;  // 13000 is 13.0
};

// Why no device can be used, or "": asks the driver, starts nothing on the device.
std::string device_problem();
DeviceInfo device_info();
bool is_emulated();

// Raw memory; the caching allocator of memory.hpp stands in front. Null if there is not enough.
void* device_allocate(size_t bytes);
void device_release(void* address, size_t bytes);
void device_memory(size_t* free_bytes, size_t* total_bytes);
// The allocator hands out, or takes back, a part of such memory.
void memory_handed_out(void* address, size_t bytes);
void memory_taken_back(void* address, size_t bytes);

void* pinned_allocate(size_t bytes);
void pinned_release(void* address);

void copy_to_device(void* target, const void* source, size_t bytes);  // asynchronous if source is pinned
void copy_to_host(void* target, const void* source, size_t bytes);    // asynchronous if target is pinned
void copy_on_device(void* target, const void* source, size_t bytes);
void fill_zero(void* target, size_t bytes);
void synchronize();
// Two places of the stream to wait for, 0 and 1: the latest mark counts.
void mark(int which);
void wait_for_mark(int which);

// The stream of all work, as the number that other libraries know it by.
std::uintptr_t stream_number();
// What is queued on another library's stream comes first, or what is queued here comes before its next work.
void wait_for_stream(std::uintptr_t other);
void make_stream_wait(std::uintptr_t other);

// Work that is started as a whole, again and again: a CUDA graph of what this thread queues in work(), which is noted
// instead of done. CudaError if it cannot be; what other threads queue meanwhile is done as always.
class Graph {
 public:
  explicit Graph(const std::function<void()>& work);
  ~Graph();
  void launch() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

#if defined(GK_EMULATED)
void submit(const std::function<void()>& work);
#else
void check(cudaError_t code, const char* call, const Where& where);
cudaStream_t cuda_stream();
#endif

}  // namespace gk::cuda
