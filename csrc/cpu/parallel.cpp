// The thread pool behind parallel_for: workers sleep on a condition variable and take task numbers from one atomic counter.
#include "parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace gk::cpu {
namespace {

thread_local bool inside_task = false;

struct Pool {
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::vector<std::thread> workers;
  const std::function<void(std::int64_t)>* task = nullptr;
  std::int64_t count = 0;
  std::atomic<std::int64_t> next{0};
  std::uint64_t generation = 0;
  int busy = 0;
  bool stop = false;
  std::exception_ptr error;

  void take_tasks() {
    inside_task = true;
    for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      try {
        (*task)(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
        next.store(count, std::memory_order_relaxed);
      }
    }
    inside_task = false;
  }

  void worker() {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      take_tasks();
      lock.lock();
      if (--busy == 0) finished.notify_one();
    }
  }

  void run(std::int64_t n, const std::function<void(std::int64_t)>& f, int threads) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      while (static_cast<int>(workers.size()) < threads - 1) workers.emplace_back([this] { worker(); });
      task = &f;
      count = n;
      next.store(0, std::memory_order_relaxed);
      busy = static_cast<int>(workers.size());
      error = nullptr;
      ++generation;
    }
    wake.notify_all();
    take_tasks();
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [&] { return busy == 0; });
    task = nullptr;
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (auto& w : workers) w.join();
  }
};

int threads_from_environment() {
  if (const char* text = std::getenv("GANKERNELS_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return std::min(n, 1024);
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

std::mutex turn;  // one parallel loop at a time; guards everything below
int wanted = 0;   // 0: not decided yet
Pool* pool = nullptr;

// A forked child has none of the parent's threads: it forgets the pool (leaked on purpose) and starts its own.
void forget_pool_in_child() {
  pool = nullptr;
  new (&turn) std::mutex;
  inside_task = false;
}

}  // namespace

int num_threads() {
  std::lock_guard<std::mutex> lock(turn);
  if (wanted == 0) wanted = threads_from_environment();
  return wanted;
}

void set_num_threads(int n) {
  std::lock_guard<std::mutex> lock(turn);
  wanted = std::max(1, std::min(n, 1024));
  delete pool;
  pool = nullptr;
}

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  if (count <= 0) return;
  if (count == 1 || inside_task) {
    for (std::int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::lock_guard<std::mutex> lock(turn);
  if (wanted == 0) wanted = threads_from_environment();
  if (wanted == 1) {
    for (std::int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  if (!pool) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
    pool = new Pool;
  }
  pool->run(count, task, wanted);
}

}  // namespace gk::cpu
