#include "device_record.hpp"

#include <algorithm>

#include "../cuda/counters.hpp"
#include "../cuda/factors.hpp"

namespace gk {

std::shared_ptr<cuda::Buffer> DeviceRecording::buffer(std::size_t bytes) {
  DeviceRecording* recording = active();
  if (!recording) return std::make_shared<cuda::Buffer>(bytes);
  const cuda::FromArena kept(recording->memory_ ? recording->memory_->arrays : nullptr);
  auto made = std::make_shared<cuda::Buffer>(bytes);
  if (bytes > 0) recording->note_block(made->address(), made->block());
  return made;
}

bool DeviceRecording::run(std::size_t begin, std::size_t end, const Shifts& shifts, const Steps& steps) {
  if (begin == end && steps.empty()) return true;
  if (Captured* whole = captured(begin, end, steps); whole && launch(*whole, shifts, steps)) return true;
  for (const auto& [at, has, now] : steps) {
    run(begin, at, shifts, {});
    now->Recording::run(0, now->calls().size(), {});
    begin = at;
  }
  if (!steps.empty()) return run(begin, end, shifts, {}), false;
  Recording::run(begin, end, shifts);
  return true;
}

// The graph of these calls, or null: it is refused, or the steps do other work than it has, and it goes.
DeviceRecording::Captured* DeviceRecording::captured(std::size_t begin, std::size_t end, const Steps& steps) {
  if (!refusal_.empty()) return nullptr;
  const Range range{begin, end, steps.size()};
  const auto alike = [&](const std::vector<bool>* factored) {
    std::size_t call = 0;
    for (const auto& [at, has, now] : steps) {
      if (!has->problem().empty() || !now->problem().empty() || has->calls().size() != now->calls().size())
        return false;
      for (std::size_t i = 0; i < has->calls().size(); ++i, ++call) {
        const Call &a = has->calls()[i], &b = now->calls()[i];
        if (a.kernel != b.kernel || a.arrays != b.arrays) return false;
        if (factored && !(*factored)[call] && a.numbers != b.numbers) return false;
      }
    }
    return begin < end || call > 0;
  };
  if (alike(nullptr)) {
    std::unique_ptr<Captured>& whole = graphs_[range];
    try {
      if (!whole) whole = capture(begin, end, steps);
      if (alike(&whole->factored)) return whole.get();
    } catch (const std::runtime_error& error) {  // CudaError, OutOfMemory
      refuse(error);
      return nullptr;
    }
  }
  graphs_.erase(range);
  return nullptr;
}

std::unique_ptr<DeviceRecording::Captured> DeviceRecording::capture(std::size_t begin, std::size_t end,
                                                                    const Steps& steps) const {
  auto made = std::make_unique<Captured>();
  const std::vector<std::uint64_t> all = seeds();
  std::size_t calls_of_steps = 0;
  for (const auto& [at, has, now] : steps) calls_of_steps += has->calls().size();
  const auto buffer = [&](std::size_t for_a_seed) {
    const std::size_t n = all.size() * for_a_seed + calls_of_steps * cuda::kFactorWords;
    return std::make_unique<cuda::Buffer>(n * sizeof(std::uint64_t));
  };
  made->told = buffer(cuda::kDrawsWords), made->found = buffer(1);
  const auto* draws = static_cast<const std::uint64_t*>(made->told->address());
  auto* moved = static_cast<std::uint64_t*>(made->found->address());
  const std::uint64_t* told = draws + all.size() * cuda::kDrawsWords;
  std::uint64_t* folded = moved + all.size();
  const auto queue = [&](std::size_t to) {
    for (; begin < to; ++begin) {
      const Call& call = calls()[begin];
      const auto at = call.seed ? std::lower_bound(all.begin(), all.end(), *call.seed) - all.begin() : 0;
      const cuda::MovedBy counter(call.seed ? moved + at : nullptr);
      call.run({});
    }
  };
  const cuda::FromArena kept(memory_->scratch);
  made->graph = std::make_unique<cuda::Graph>([&] {
    cuda::move_counters(draws, static_cast<int>(all.size()), moved);
    for (const auto& [at, has, now] : steps) {
      queue(at);
      for (const Call& call : has->calls()) {
        const cuda::FactorsAt there(told, folded);
        call.run({});
        made->factored.push_back(cuda::FactorsAt::taken());
        if (made->factored.back()) told += cuda::kFactorWords, folded += cuda::kFactorWords;
      }
    }
    queue(end);
  });
  return made;
}

bool DeviceRecording::launch(Captured& whole, const Shifts& shifts, const Steps& steps) {
  try {
    std::vector<std::uint64_t> now = words(whole, shifts, steps);
    if (now != whole.written) {
      whole.written.clear();
      cuda::store_words(static_cast<std::uint64_t*>(whole.told->address()), now.data(), static_cast<int>(now.size()));
      whole.written = std::move(now);
    }
    whole.graph->launch();
    return true;
  } catch (const cuda::CudaError& error) {
    memory_->forget_counts();
    refuse(error);
    return false;
  } catch (...) {
    memory_->forget_counts();
    throw;
  }
}

// What the device is to be told for this launch; its counts are taken to be moved on.
std::vector<std::uint64_t> DeviceRecording::words(const Captured& whole, const Shifts& shifts,
                                                  const Steps& steps) const {
  std::vector<std::uint64_t> words;
  for (const std::uint64_t seed : seeds()) {
    const auto shift = std::find_if(shifts.begin(), shifts.end(), [&](const auto& s) { return s.first == seed; });
    const auto recorded = after_.find(seed);
    const std::uint64_t after = recorded == after_.end() ? 0 : recorded->second;
    cuda::Count& counter = memory_->counters[seed];
    const std::uint64_t by = counter.move_to(after + (shift == shifts.end() ? 0 : shift->second));
    words.insert(words.end(), {counter.place(), by, after});
  }
  auto factored = whole.factored.begin();
  for (const auto& [at, has, now] : steps) {
    for (const Call& call : now->calls()) {
      if (!*factored++) continue;
      cuda::ToldFactors told;
      {
        const cuda::FactorsTo here(&told);
        call.run({});
      }
      if (told.counted) {
        cuda::Count& count = memory_->steps[told.counted];
        told.word[cuda::kMoveWord] = count.move_to(static_cast<std::uint64_t>(told.step));
        told.word[cuda::kPlaceWord] = count.place();
      }
      words.insert(words.end(), std::begin(told.word), std::end(told.word));
    }
  }
  return words;
}

void DeviceRecording::refuse(const std::exception& error) {
  graphs_.clear();
  refusal_ = error.what();
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
      .def("set_after", &DeviceRecording::set_after, "the counter of a seed after the draws of this recording")
      .def("graphs", &DeviceRecording::graphs, "how many were captured")
      .def("refusal", &DeviceRecording::refusal, "why calls are queued one by one, or an empty string")
      .def(
          "step", [](const DeviceRecording&, bool deferred) { return std::make_unique<DeviceRecording>(deferred); },
          py::arg("deferred") = false, "for the calls of a step inside of graphs; deferred ones are noted and not run")
      .def("run", &DeviceRecording::run, py::arg("begin"), py::arg("end"), py::arg("shifts"),
           py::arg("steps") = DeviceRecording::Steps(), unlocked);
}

}  // namespace gk
