#include "device_record.hpp"

#include <algorithm>

#include "../cuda/counters.hpp"

namespace gk {

std::shared_ptr<cuda::Buffer> DeviceRecording::buffer(std::size_t bytes) {
  DeviceRecording* recording = active();
  if (!recording) return std::make_shared<cuda::Buffer>(bytes);
  const cuda::FromArena kept(recording->memory_->arrays);
  auto made = std::make_shared<cuda::Buffer>(bytes);
  if (bytes > 0) recording->note_block(made->address(), made->block());
  return made;
}

void DeviceRecording::run(std::size_t begin, std::size_t end, const Shifts& shifts) {
  if (begin == end) return;
  if (const cuda::Graph* whole = graph(begin, end)) {
    move_counters(shifts);
    whole->launch();
  } else {
    Recording::run(begin, end, shifts);
  }
}

const cuda::Graph* DeviceRecording::graph(std::size_t begin, std::size_t end) {
  if (!refusal_.empty()) return nullptr;
  const auto found = graphs_.find({begin, end});
  if (found != graphs_.end()) return found->second.get();
  const std::vector<std::uint64_t> all = seeds();
  if (!moved_) moved_ = std::make_unique<cuda::Buffer>(all.size() * sizeof(std::uint64_t));
  const auto* moved = static_cast<const std::uint64_t*>(moved_->address());
  const auto queue = [&] {
    for (std::size_t i = begin; i < end; ++i) {
      const Call& call = calls()[i];
      const auto at = call.seed ? std::lower_bound(all.begin(), all.end(), *call.seed) - all.begin() : 0;
      const cuda::MovedBy counter(call.seed ? moved + at : nullptr);
      call.run({});
    }
  };
  try {
    const cuda::FromArena kept(memory_->scratch);
    return (graphs_[{begin, end}] = std::make_unique<cuda::Graph>(queue)).get();
  } catch (const std::runtime_error& error) {  // CudaError, OutOfMemory
    graphs_.clear();
    refusal_ = error.what();
    return nullptr;
  }
}

void DeviceRecording::move_counters(const Shifts& shifts) {
  std::vector<std::uint64_t> by;
  for (const std::uint64_t seed : seeds()) {
    const auto shift = std::find_if(shifts.begin(), shifts.end(), [&](const auto& s) { return s.first == seed; });
    by.push_back(shift == shifts.end() ? 0 : shift->second);
  }
  if (by == written_) return;
  cuda::store_words(static_cast<std::uint64_t*>(moved_->address()), by.data(), static_cast<int>(by.size()));
  written_ = by;
}

void bind_device_recording(py::module_& m) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<DeviceMemory, std::shared_ptr<DeviceMemory>>(m, "Memory", "arrays of recordings")
      .def(py::init<>())
      .def("bytes", [](const DeviceMemory& memory) { return memory.arrays->bytes() + memory.scratch->bytes(); });
  bind_recording<DeviceRecording>(m)
      .def(py::init<std::shared_ptr<DeviceMemory>>())
      .def("computed",
           [](const DeviceRecording& r, py::handle array) {
             const View<void>& view = NativeView::of(array)->view;
             return view.size() == 0 || r.computed(view.data);
           })
      .def("graphs", &DeviceRecording::graphs, "how many were captured")
      .def("refusal", &DeviceRecording::refusal, "why calls are queued one by one, or an empty string")
      .def("run", &DeviceRecording::run, unlocked);
}

}  // namespace gk
