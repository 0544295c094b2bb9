// Arrays over blocks of a memory pool, and recordings of kernel calls, for Python.
#include "../cpu/memory.hpp"
#include "../cpu/prepared.hpp"
#include "numpy_view.hpp"
#include "record.hpp"

namespace gk {
namespace {

std::shared_ptr<cpu::MemoryPool> common_pool() {
  static auto* pool = new std::shared_ptr<cpu::MemoryPool>(std::make_shared<cpu::MemoryPool>());  // arrays may die last
  return *pool;
}

// Recordings may share memory if they never run at the same time: what one leaves behind, its outputs, stays leased.
struct HostRecording : Recording {
  std::shared_ptr<cpu::MemoryPool> memory;
  cpu::Constants constants{common_pool()};

  static HostRecording* active() { return static_cast<HostRecording*>(Recording::active()); }

  void run(std::size_t begin, std::size_t end, const Shifts& shifts) {
    for (std::size_t i = begin; i < end; ++i) {
      const cpu::UsingConstants using_constants(constants, i);
      calls()[i].run(shifts);
    }
  }

  void add_constant(const py::array& a) {
    if (a.size() == 0) return;
    py::ssize_t first = 0, last = 0;  // elements in memory, in bytes from the one of index 0
    for (py::ssize_t i = 0; i < a.ndim(); ++i) {
      const py::ssize_t step = (a.shape(i) - 1) * a.strides(i);
      (step < 0 ? first : last) += step;
    }
    constants.add(static_cast<const char*>(a.data()) + first, static_cast<std::size_t>(last - first + a.itemsize()));
  }
};

struct Lease {
  void* block;
  std::size_t capacity;
  std::shared_ptr<cpu::MemoryPool> pool;
};

void end_lease(PyObject* capsule) {
  auto* lease = static_cast<Lease*>(PyCapsule_GetPointer(capsule, nullptr));
  lease->pool->release(lease->block, lease->capacity);
  delete lease;
}

py::array empty(const py::tuple& shape, const py::dtype& dtype) {
  std::vector<py::ssize_t> extents(shape.size());
  auto bytes = static_cast<std::size_t>(dtype.itemsize());
  for (std::size_t i = 0; i < extents.size(); ++i) {
    extents[i] = shape[i].cast<py::ssize_t>();
    bytes *= static_cast<std::size_t>(extents[i]);
  }
  HostRecording* recording = HostRecording::active();
  auto pool = recording ? recording->memory : common_pool();
  std::size_t capacity = 0;
  void* block = pool->acquire(bytes, &capacity);
  if (recording) recording->note_block(block, capacity);
  auto* lease = new Lease{block, capacity, std::move(pool)};
  const auto owner = py::reinterpret_steal<py::object>(PyCapsule_New(lease, nullptr, end_lease));
  return py::array(dtype, std::move(extents), {}, block, owner);
}

}  // namespace

void bind_memory(py::module_& m) {
  m.def("empty", &empty, "an uninitialised array on a block of the pool");
  m.def("empty_cache", [] { common_pool()->trim(0); });
  m.def("memory_stats", [] {
    const cpu::MemoryStats s = common_pool()->stats();
    py::dict d;
    d["live_bytes"] = s.live, d["cached_bytes"] = s.cached, d["peak_live_bytes"] = s.peak;
    d["fresh_blocks"] = s.fresh, d["reused_blocks"] = s.reused;
    return d;
  });

  py::class_<cpu::MemoryPool, std::shared_ptr<cpu::MemoryPool>>(m, "Memory", "arrays of recordings")
      .def(py::init([] { return std::make_shared<cpu::MemoryPool>(true); }))
      .def("bytes", [](cpu::MemoryPool& pool) { return pool.stats().live + pool.stats().cached; });

  bind_recording<HostRecording>(m)
      .def(py::init([](std::shared_ptr<cpu::MemoryPool> memory) {
        auto recording = std::make_unique<HostRecording>();
        recording->memory = std::move(memory);
        return recording;
      }))
      .def("computed", [](const HostRecording& r, const py::array& a) { return a.size() == 0 || r.computed(a.data()); })
      .def("add_constant", &HostRecording::add_constant, "an array that stays as it is from now on")
      .def("run", &HostRecording::run, py::call_guard<py::gil_scoped_release>());
}

}  // namespace gk
