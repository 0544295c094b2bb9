// Arrays over blocks of a memory pool, and recordings of kernel calls, for Python.
#include <algorithm>

#include "record.hpp"

namespace gk {
namespace {

std::shared_ptr<cpu::MemoryPool> common_pool() {
  static auto* pool = new std::shared_ptr<cpu::MemoryPool>(std::make_shared<cpu::MemoryPool>());  // arrays may die last
  return *pool;
}

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
  Recording* recording = Recording::active();
  auto pool = recording ? recording->memory() : common_pool();
  std::size_t capacity = 0;
  void* block = pool->acquire(bytes, &capacity);
  if (recording) recording->note_block(block, capacity);
  auto* lease = new Lease{block, capacity, std::move(pool)};
  const auto owner = py::reinterpret_steal<py::object>(PyCapsule_New(lease, nullptr, end_lease));
  return py::array(dtype, std::move(extents), {}, block, owner);
}

// Why the second recording is not a repetition of the first, or "".
std::string difference(const Recording& first, const Recording& second) {
  for (const Recording* recording : {&first, &second})
    if (!recording->problem().empty()) return recording->problem();
  const auto &a = first.calls(), &b = second.calls();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (a[i].kernel != b[i].kernel)
      return "call " + std::to_string(i) + " was " + a[i].kernel + ", then " + b[i].kernel;
    if (a[i].signature != b[i].signature)
      return "call " + std::to_string(i) + ", " + a[i].kernel + ", had other arrays or numbers the second time";
  }
  if (a.size() != b.size()) return std::to_string(a.size()) + " kernels ran, then " + std::to_string(b.size());
  return "";
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

  py::class_<Recording>(m, "Recording", "kernel calls of this thread between start() and stop()")
      .def(py::init<std::shared_ptr<cpu::MemoryPool>>())
      .def("start", [](Recording& r) { Recording::active() = &r; })
      .def("stop", [](Recording&) { Recording::active() = nullptr; })
      .def("__len__", [](const Recording& r) { return r.calls().size(); })
      .def("kernels",
           [](const Recording& r) {
             std::vector<std::string> names;
             for (const auto& call : r.calls()) names.push_back(call.kernel);
             return names;
           })
      .def("computed", &Recording::computed)
      .def("difference", [](const Recording& first, const Recording& second) { return difference(first, second); })
      .def("run", &Recording::run, py::call_guard<py::gil_scoped_release>());
}

}  // namespace gk
