// The device of runtime.hpp where there is none: memory of the host, every call done at once.
#include "../runtime.hpp"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "machine.hpp"

namespace gk::emulator {
namespace {
bool g_graphs_refused = false;
Traffic g_traffic;
}  // namespace
void refuse_graphs(bool refused) { g_graphs_refused = refused; }
Traffic traffic() { return g_traffic; }
}  // namespace gk::emulator

namespace gk::cuda {
namespace {
constexpr size_t kMemoryBytes = size_t(8) << 30;
size_t g_used = 0;
using Works = std::vector<std::function<void()>>;
thread_local Works* t_capturing = nullptr;  // takes this thread's work instead, while a graph is made

// What waits for the device breaks a capture, as on a GPU.
void refuse_to_wait(const char* call) {
  ++emulator::g_traffic.waits;
  if (t_capturing) throw CudaError(std::string(call) + ": cudaErrorStreamCaptureUnsupported");
}
}  // namespace

std::string Where::text() const {
  const char* slash = std::strrchr(file, '/');
  return std::string(function) + " (" + (slash ? slash + 1 : file) + ":" + std::to_string(line) + ")";
}

std::string device_problem() { return ""; }
bool is_emulated() { return true; }

DeviceInfo device_info() {
  DeviceInfo info;
  info.name = "emulated CUDA device (one block at a time on the processor)";
  info.compute_major = 9;
  info.multiprocessors = 1;
  info.memory_bytes = kMemoryBytes;
  return info;
}

void* device_allocate(size_t bytes) {
  if (g_used + bytes > kMemoryBytes) return nullptr;
  void* p = emulator::reserve_device_memory(bytes);
  if (p) g_used += bytes;
  return p;
}
void device_release(void* address, size_t bytes) {
  emulator::release_device_memory(address, bytes);
  g_used -= bytes;
}
void device_memory(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = kMemoryBytes;
  *free_bytes = kMemoryBytes - g_used;
}
void memory_handed_out(void* address, size_t bytes) {
  std::memset(address, 0xff, bytes);  // NaN: nobody may count on zeros
  emulator::mark_live(address, bytes);
}
void memory_taken_back(void* address, size_t bytes) { emulator::mark_dead(address, bytes); }

void* pinned_allocate(size_t bytes) { return std::malloc(bytes); }
void pinned_release(void* address) { std::free(address); }

void copy_to_device(void* target, const void* source, size_t bytes) {
  submit([=] { std::memcpy(target, source, bytes); });
}
void copy_to_host(void* target, const void* source, size_t bytes) {
  submit([=] { std::memcpy(target, source, bytes); });
}
void copy_on_device(void* target, const void* source, size_t bytes) {
  submit([=] { std::memmove(target, source, bytes); });
}
void fill_zero(void* target, size_t bytes) {
  submit([=] { std::memset(target, 0, bytes); });
}
void synchronize() { refuse_to_wait("cudaStreamSynchronize"); }
void mark(int) {}
void wait_for_mark(int) { refuse_to_wait("cudaEventSynchronize"); }

std::uintptr_t stream_number() { return 1; }
void wait_for_stream(std::uintptr_t) {}
void make_stream_wait(std::uintptr_t) {}

void submit(const std::function<void()>& work) {
  if (t_capturing) return t_capturing->push_back(work);
  ++emulator::g_traffic.queued;
  work();
}

struct Graph::Parts {
  Works works;
};

Graph::Graph(const std::function<void()>& work) : parts_(new Parts) {
  if (emulator::g_graphs_refused) throw CudaError("cudaStreamBeginCapture: cudaErrorNotSupported: refused by a test");
  t_capturing = &parts_->works;
  try {
    work();
  } catch (...) {
    t_capturing = nullptr;
    throw;
  }
  t_capturing = nullptr;
}
Graph::~Graph() = default;
void Graph::launch() const {
  if (emulator::g_graphs_refused) throw CudaError("cudaGraphLaunch: cudaErrorMemoryAllocation: refused by a test");
  ++emulator::g_traffic.graphs;
  for (const auto& work : parts_->works) work();
}

}  // namespace gk::cuda
