// Recorded calls on a GPU run as CUDA graphs, captured when they are first run. Steps in Python lie between them, or
// inside: then Python notes the step's calls (anew at every launch, without running them) and the graph has them. What
// changes between launches lies on the device, where graphs count on by themselves; only what changed otherwise is
// written before one starts. Where graphs are refused, the calls are queued one by one.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../cuda/counters.hpp"
#include "../cuda/memory.hpp"
#include "device_view.hpp"
#include "record.hpp"

namespace gk {

// What recordings that never run at the same time may share: what one leaves behind, its outputs, stays in use.
struct DeviceMemory {
  std::shared_ptr<cuda::Arena> arrays = std::make_shared<cuda::Arena>();   // made while recording
  std::shared_ptr<cuda::Arena> scratch = std::make_shared<cuda::Arena>();  // of kernels in graphs
  std::map<std::uint64_t, cuda::Count> counters;                           // of random numbers, by seed
  std::map<const void*, cuda::Count> steps;                                // of optimizers, by an array of theirs

  // After a graph that failed.
  void forget_counts() {
    for (auto& [seed, count] : counters) count.forget();
    for (auto& [array, count] : steps) count.forget();
  }
};

class DeviceRecording : public Recording {
 public:
  // A step inside of graphs: before which call it is, its calls as a graph has them, and as they are to be now.
  using Step = std::tuple<std::size_t, const DeviceRecording*, const DeviceRecording*>;
  using Steps = std::vector<Step>;

  explicit DeviceRecording(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {}
  // The calls of a step; its arrays are ordinary ones.
  explicit DeviceRecording(bool deferred) : Recording(deferred, true) {}

  DeviceRecording(const DeviceRecording&) = delete;
  DeviceRecording& operator=(const DeviceRecording&) = delete;

  static DeviceRecording* active() { return static_cast<DeviceRecording*>(Recording::active()); }

  // Memory of an array: the active recording's, or the cache's.
  static std::shared_ptr<cuda::Buffer> buffer(std::size_t bytes);

  // The counter of a seed after the draws of this recording.
  void set_after(std::uint64_t seed, std::uint64_t counter) { after_[seed] = counter; }

  // False: the steps did other work than the graph has; it was done as they said, between the rest.
  bool run(std::size_t begin, std::size_t end, const Shifts& shifts, const Steps& steps);
  // Why calls are queued one by one, or "".
  const std::string& refusal() const { return refusal_; }
  std::size_t graphs() const { return graphs_.size(); }

 private:
  struct Captured {
    std::unique_ptr<cuda::Buffer> told;   // on the device: the seeds' Draws, then ToldFactors::word of the calls
    std::vector<std::uint64_t> written;   // what is there
    std::unique_ptr<cuda::Buffer> found;  // that the device makes of it: how far counters moved on, folded factors
    std::vector<bool> factored;           // calls of the steps, in order: which have factors
    std::unique_ptr<cuda::Graph> graph;
  };
  using Range = std::tuple<std::size_t, std::size_t, std::size_t>;  // begin, end, number of steps

  Captured* captured(std::size_t begin, std::size_t end, const Steps& steps);
  std::unique_ptr<Captured> capture(std::size_t begin, std::size_t end, const Steps& steps) const;
  // False: the device refuses, and nothing was done.
  bool launch(Captured& whole, const Shifts& shifts, const Steps& steps);
  std::vector<std::uint64_t> words(const Captured& whole, const Shifts& shifts, const Steps& steps) const;
  void refuse(const std::exception& error);

  std::shared_ptr<DeviceMemory> memory_;
  std::map<Range, std::unique_ptr<Captured>> graphs_;
  std::map<std::uint64_t, std::uint64_t> after_;
  std::string refusal_;
};

void bind_device_recording(py::module_& m);

}  // namespace gk
