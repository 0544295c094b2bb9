// Counts on the device that graphs move on by themselves, so that starting one again writes nothing: counters of random
// numbers, steps of optimizers. The host follows what is there and tells a graph only if it has to move otherwise.
#pragma once

#include <cstdint>
#include <optional>

#include "memory.hpp"

namespace gk::cuda {

class Count {
 public:
  std::uint64_t place() const { return reinterpret_cast<std::uintptr_t>(word_.address()); }
  // By how much the graph that starts next has to move it (modulo 2^64), so that it becomes `next`.
  std::uint64_t move_to(std::uint64_t next);
  // A graph failed: nobody knows what is there.
  void forget() { there_.reset(); }

 private:
  Buffer word_{sizeof(std::uint64_t)};
  std::optional<std::uint64_t> there_;
};

// What a graph does to the counter of a seed, as words for the device.
struct Draws {
  std::uint64_t count;  // its place
  std::uint64_t by;     // it moves on by this much
  std::uint64_t after;  // and would be this one after the draws of the recording
};
constexpr int kDrawsWords = 3;

// Moves the counters on; moved: by how much each is further than at the recording.
void move_counters(const std::uint64_t* draws, int n, std::uint64_t* moved);

// While it exists, what this thread queues reads its counter's movement there; null: nowhere, the counter is as given.
class MovedBy {
 public:
  explicit MovedBy(const std::uint64_t* moved);
  ~MovedBy();
};

// Writes numbers to the device, in the order of the stream; they travel with the launch.
void store_words(std::uint64_t* target, const std::uint64_t* words, int n);

}  // namespace gk::cuda
