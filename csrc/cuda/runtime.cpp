// runtime.hpp on the CUDA runtime, which is linked statically and opens libcuda with its first call, not before: the
// module can be imported where there is no driver. One non-blocking stream carries all work.
#include "runtime.hpp"

#include <cstring>

namespace gk::cuda {
namespace {

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags", GK_HERE); }
  ~Event() { cudaEventDestroy(event); }
};

struct Stream {
  cudaStream_t stream = nullptr;
  Stream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", GK_HERE); }
  ~Stream() { cudaStreamDestroy(stream); }
};

thread_local cudaStream_t t_capturing = nullptr;  // takes this thread's work instead, while a graph is made

// Asking the device for memory is allowed while this thread captures: the graph contains nothing of it.
class Uncaptured {
 public:
  Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

cudaStream_t stream_of(std::uintptr_t number) { return reinterpret_cast<cudaStream_t>(number); }

void order(cudaStream_t first, cudaStream_t second) {
  if (first == second) return;
  const Event done;
  check(cudaEventRecord(done.event, first), "cudaEventRecord", GK_HERE);
  check(cudaStreamWaitEvent(second, done.event, 0), "cudaStreamWaitEvent", GK_HERE);
}

}  // namespace

std::string Where::text() const {
  const char* slash = std::strrchr(file, '/');
  return std::string(function) + " (" + (slash ? slash + 1 : file) + ":" + std::to_string(line) + ")";
}

void check(cudaError_t code, const char* call, const Where& where) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // the next call starts without this error
  throw CudaError(std::string(call) + " in " + where.text() + ": " + cudaGetErrorName(code) + ": " +
                  cudaGetErrorString(code));
}

std::string device_problem() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) {
    cudaGetLastError();
    return std::string("the CUDA driver finds no device: ") + cudaGetErrorName(code) + ": " + cudaGetErrorString(code);
  }
  if (count == 0) return "the CUDA driver finds no device";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties", GK_HERE);
  if (properties.major < 8)
    return std::string(properties.name) + " has compute capability " + std::to_string(properties.major) + "." +
           std::to_string(properties.minor) + "; the kernels need 8.0";
  return "";
}

DeviceInfo device_info() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties", GK_HERE);
  DeviceInfo info;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  check(cudaDriverGetVersion(&info.driver_version), "cudaDriverGetVersion", GK_HERE);
  check(cudaRuntimeGetVersion(&info.runtime_version), "cudaRuntimeGetVersion", GK_HERE);
  return info;
}

bool is_emulated() { return false; }

void* device_allocate(size_t bytes) {
  const Uncaptured here;
  void* p = nullptr;
  const cudaError_t code = cudaMalloc(&p, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(code, "cudaMalloc", GK_HERE);
  return p;
}
void device_release(void* address, size_t) {
  const Uncaptured here;
  cudaFree(address);  // at exit the driver may be gone: not an error
}
void device_memory(size_t* free_bytes, size_t* total_bytes) {
  const Uncaptured here;
  check(cudaMemGetInfo(free_bytes, total_bytes), "cudaMemGetInfo", GK_HERE);
}
void memory_handed_out(void*, size_t) {}
void memory_taken_back(void*, size_t) {}

void* pinned_allocate(size_t bytes) {
  void* p = nullptr;
  check(cudaHostAlloc(&p, bytes, cudaHostAllocDefault), "cudaHostAlloc", GK_HERE);
  return p;
}
void pinned_release(void* address) { cudaFreeHost(address); }

void copy_to_device(void* target, const void* source, size_t bytes) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, cuda_stream()), "cudaMemcpyAsync", GK_HERE);
}
void copy_to_host(void* target, const void* source, size_t bytes) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, cuda_stream()), "cudaMemcpyAsync", GK_HERE);
}
void copy_on_device(void* target, const void* source, size_t bytes) {
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, cuda_stream()), "cudaMemcpyAsync", GK_HERE);
}
void fill_zero(void* target, size_t bytes) {
  check(cudaMemsetAsync(target, 0, bytes, cuda_stream()), "cudaMemsetAsync", GK_HERE);
}
void synchronize() { check(cudaStreamSynchronize(cuda_stream()), "cudaStreamSynchronize", GK_HERE); }

namespace {
cudaEvent_t marker(int which) {
  static Event events[2];
  return events[which].event;
}
}  // namespace
void mark(int which) { check(cudaEventRecord(marker(which), cuda_stream()), "cudaEventRecord", GK_HERE); }
void wait_for_mark(int which) { check(cudaEventSynchronize(marker(which)), "cudaEventSynchronize", GK_HERE); }

cudaStream_t cuda_stream() {
  static const auto* common = new Stream;  // never destroyed: arrays may be given back while Python ends
  return t_capturing ? t_capturing : common->stream;
}
std::uintptr_t stream_number() { return reinterpret_cast<std::uintptr_t>(cuda_stream()); }
void wait_for_stream(std::uintptr_t other) { order(stream_of(other), cuda_stream()); }
void make_stream_wait(std::uintptr_t other) { order(cuda_stream(), stream_of(other)); }

struct Graph::Parts {
  cudaGraphExec_t executable = nullptr;
  ~Parts() {
    if (executable) cudaGraphExecDestroy(executable);
  }
};

Graph::Graph(const std::function<void()>& work) : parts_(new Parts) {
  const Stream own;
  check(cudaStreamBeginCapture(own.stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture", GK_HERE);
  t_capturing = own.stream;
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    t_capturing = nullptr;
    cudaStreamEndCapture(own.stream, &graph);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();  // that the capture was broken off is no error of the next call
    throw;
  }
  t_capturing = nullptr;
  check(cudaStreamEndCapture(own.stream, &graph), "cudaStreamEndCapture", GK_HERE);
  const cudaError_t code = cudaGraphInstantiate(&parts_->executable, graph, 0);
  cudaGraphDestroy(graph);
  check(code, "cudaGraphInstantiate", GK_HERE);
}
Graph::~Graph() = default;
void Graph::launch() const { check(cudaGraphLaunch(parts_->executable, cuda_stream()), "cudaGraphLaunch", GK_HERE); }

}  // namespace gk::cuda
