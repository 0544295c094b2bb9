// Recorded calls on a GPU run as CUDA graphs: what lies between two steps in Python is one, captured when it is first
// run. Where that is refused, the calls are queued one by one.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../cuda/memory.hpp"
#include "device_view.hpp"
#include "record.hpp"

namespace gk {

// What recordings that never run at the same time may share: what one leaves behind, its outputs, stays in use.
struct DeviceMemory {
  std::shared_ptr<cuda::Arena> arrays = std::make_shared<cuda::Arena>();   // made while recording
  std::shared_ptr<cuda::Arena> scratch = std::make_shared<cuda::Arena>();  // of kernels in graphs
};

class DeviceRecording : public Recording {
 public:
  explicit DeviceRecording(std::shared_ptr<DeviceMemory> memory) : memory_(std::move(memory)) {}

  static DeviceRecording* active() { return static_cast<DeviceRecording*>(Recording::active()); }

  // Memory of an array: the active recording's, or the cache's.
  static std::shared_ptr<cuda::Buffer> buffer(std::size_t bytes);

  void run(std::size_t begin, std::size_t end, const Shifts& shifts);
  // Why calls are queued one by one, or "".
  const std::string& refusal() const { return refusal_; }
  std::size_t graphs() const { return graphs_.size(); }

 private:
  const cuda::Graph* graph(std::size_t begin, std::size_t end);
  void move_counters(const Shifts& shifts);

  std::shared_ptr<DeviceMemory> memory_;
  std::map<std::pair<std::size_t, std::size_t>, std::unique_ptr<cuda::Graph>> graphs_;
  std::unique_ptr<cuda::Buffer> moved_;  // of every seed's counter, on the device
  std::vector<std::uint64_t> written_;   // what is there
  std::string refusal_;
};

void bind_device_recording(py::module_& m);

}  // namespace gk
