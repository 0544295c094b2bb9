// A small pool of threads owned by gankernels (no OpenMP runtime: two of them in one process clash).
// Work is cut into tasks by the problem alone, never by the number of threads, and every task writes its own outputs,
// so results do not depend on how many threads run.
#pragma once

#include <cstdint>
#include <functional>

namespace gk::cpu {

int num_threads();
// n >= 1; threads start lazily at the first parallel loop.
void set_num_threads(int n);

// Calls task(i) for i in [0, count), in any order, on the pool and the calling thread; returns when all are done.
// The first exception of a task is rethrown here. Calls from several Python threads take turns; nested calls run
// inline.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task);

// Multiply-adds that one thread does in the time that another takes to wake up.
inline constexpr std::int64_t kSmallWork = std::int64_t(1) << 18;

// While it lives, parallel loops of this thread run inline, if the work is small: waking threads costs more.
class Inline {
 public:
  explicit Inline(bool small);
  ~Inline();
  Inline(const Inline&) = delete;
  Inline& operator=(const Inline&) = delete;

 private:
  const bool before_;
};

// Calls task(begin, end) on chunks of [0, size) of `grain` elements: for loops over elements.
inline void parallel_chunks(std::int64_t size, std::int64_t grain,
                            const std::function<void(std::int64_t, std::int64_t)>& task) {
  if (size <= 0) return;
  const std::int64_t count = (size + grain - 1) / grain;
  if (count == 1) return task(0, size);
  parallel_for(count, [&](std::int64_t i) {
    const std::int64_t begin = i * grain;
    task(begin, begin + grain < size ? begin + grain : size);
  });
}

}  // namespace gk::cpu
