// The module gankernels._cuda: the kernels of bind_kernels.inc, then memory and the device. The kernels take
// gankernels.backends.DeviceArray; importing this opens no driver.
#include "../cuda/epilogue.hpp"
#include "../cuda/kernels.hpp"
#include "../cuda/memory.hpp"
#include "device_record.hpp"
#if defined(GK_EMULATED)
#include "../cuda/emulator/machine.hpp"
#endif

namespace {

namespace cuda = gk::cuda;

// The owner of an array's memory, as DeviceArray wants it. Shared with the NumPy array over emulated memory.
struct PyBuffer {
  std::shared_ptr<cuda::Buffer> memory;

  std::uintptr_t ptr() const { return reinterpret_cast<std::uintptr_t>(memory->address()); }
  py::object host() const {
    if (!cuda::is_emulated()) return py::none();
    const py::capsule owner(new std::shared_ptr<cuda::Buffer>(memory),
                            [](void* p) { delete static_cast<std::shared_ptr<cuda::Buffer>*>(p); });
    return py::array_t<std::uint8_t>({memory->bytes()}, {1}, static_cast<std::uint8_t*>(memory->address()), owner);
  }
};

py::dict statistics() {
  const cuda::MemoryStatistics s = cuda::memory_statistics();
  py::dict d;
  d["in_use"] = s.in_use;
  d["peak_in_use"] = s.peak_in_use;
  d["reserved"] = s.reserved;
  d["peak_reserved"] = s.peak_reserved;
  d["limit"] = s.limit;
  d["allocations"] = s.allocations;
  d["allocations_from_device"] = s.from_device;
  d["live_arrays"] = s.live_arrays;
  return d;
}

py::dict device() {
  const cuda::DeviceInfo info = cuda::device_info();
  py::dict d;
  d["name"] = info.name;
  d["compute_capability"] = std::to_string(info.compute_major) + "." + std::to_string(info.compute_minor);
  d["multiprocessors"] = info.multiprocessors;
  d["memory_bytes"] = info.memory_bytes;
  d["driver"] = info.driver_version;
  d["runtime"] = info.runtime_version;
  return d;
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  using namespace gk;
  namespace kernels = gk::cuda;
  m.doc() = "CUDA kernels of gankernels; called by gankernels.backends.cuda only";
  py::register_exception<cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);
  py::register_exception<cuda::OutOfMemory>(m, "OutOfMemoryError", PyExc_MemoryError);

// arrays of a GPU may be bfloat16 too
#undef GK_BIND
#undef GK_BIND_FROM
#define GK_BIND(module, name)                         \
  bind_kernel(module, #name, &kernels::name<float>);  \
  bind_kernel(module, #name, &kernels::name<double>); \
  bind_kernel(module, #name, &kernels::name<bfloat16>)
#define GK_BIND_FROM(module, name, S)                      \
  bind_kernel(module, #name, &kernels::name<S, float>);    \
  bind_kernel(module, #name, &kernels::name<S, double>);   \
  bind_kernel(module, #name, &kernels::name<S, bfloat16>); \
  bind_kernel(module, #name, &kernels::name<S, int64_t>);  \
  bind_kernel(module, #name, &kernels::name<S, bool>)
#include "bind_kernels.inc"
  GK_BIND_FROM(m, cast, bfloat16);
  GK_BIND(m, conv_moments);
  GK_BIND(m, conv_transpose_moments);
  GK_BIND(m, upsample_conv_moments);

  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<NativeView>(m, "NativeView", "a DeviceArray as kernels see it");
  py::class_<PyBuffer>(m, "Buffer", "device memory of one array")
      .def(py::init([](size_t bytes) { return PyBuffer{DeviceRecording::buffer(bytes)}; }), unlocked)
      .def_property_readonly("ptr", &PyBuffer::ptr)
      .def_property_readonly("nbytes", [](const PyBuffer& b) { return b.memory->bytes(); })
      .def_property_readonly("host", &PyBuffer::host)
      .def_property_readonly("stream", [](const PyBuffer&) { return cuda::stream_number(); });

  bind_device_recording(m);
  m.def(
      "upload",
      [](std::uintptr_t device, std::uintptr_t host, size_t bytes) {
        cuda::upload(reinterpret_cast<void*>(device), reinterpret_cast<const void*>(host), bytes);
      },
      unlocked);
  m.def(
      "download",
      [](std::uintptr_t host, std::uintptr_t device, size_t bytes) {
        cuda::download(reinterpret_cast<void*>(host), reinterpret_cast<const void*>(device), bytes);
      },
      unlocked);
  m.def("synchronize", &cuda::synchronize, unlocked);
  m.def("stream", &cuda::stream_number);
  m.def("wait_for_stream", &cuda::wait_for_stream, "what is queued on another stream comes before the next kernel");
  m.def("make_stream_wait", &cuda::make_stream_wait, "what is queued here comes before another stream's next work");
  m.def("memory_stats", &statistics);
  m.def("reset_peak_memory", &cuda::reset_peak_memory);
  m.def("set_memory_limit", &cuda::set_memory_limit, "bytes; 0 is none");
  m.def("empty_cache", &cuda::empty_cache, unlocked);
  m.def("device_problem", &cuda::device_problem, unlocked, "why no device can be used, or an empty string");
  m.def("device", &device);
  m.attr("emulated") = cuda::is_emulated();

#if defined(GK_EMULATED)
  m.def("emulator_seed", &emulator::set_seed, "the order of threads; 0: as numbered");
  m.def("emulator_refuse_graphs", &emulator::refuse_graphs, "let no graph be captured or started, or again");
  m.def("emulator_checks", &emulator::set_checks, "bounds and races");
  m.def("emulator_barriers", &emulator::barriers, "every __syncthreads reached so far, as file:line");
  m.def("emulator_skip_barrier", &emulator::skip_barrier, "as if that line, or 'cp_async_wait', were removed; '' none");
  m.def(
      "emulator_traffic",
      [] {
        const emulator::Traffic t = emulator::traffic();
        return py::make_tuple(t.queued, t.graphs, t.waits);
      },
      "so far: kernels, copies and fills that were queued one by one; graphs that were started; waits for the device");
#endif
}
