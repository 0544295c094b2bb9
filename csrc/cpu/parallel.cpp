// The thread pool behind parallel_for: every thread takes task numbers from a run of its own, in order, then what is
// left of the others' runs. Loops over the same data so find most of it in the caches of the core that wrote it. A
// worker that wakes up after the loop is done finds it closed, so nobody waits for a sleeper; workers look for new work
// for a moment before they sleep, because a network calls one short loop after another.
#include "parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace gk::cpu {
namespace {

constexpr int kSpins = 2000;  // some 20 to 40 microseconds, about what waking a sleeping thread costs

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

thread_local bool inside_task = false;

// Tasks [next, end) of a loop, on a cache line of their own.
struct alignas(64) Run {
  std::atomic<std::int64_t> next{0};
  std::int64_t end = 0;
};

struct Pool {
  std::mutex mutex;  // guards all that is not atomic
  std::condition_variable wake, finished;
  std::vector<std::thread> workers;
  const std::function<void(std::int64_t)>* task = nullptr;
  std::vector<Run> runs;                     // one for each thread, the first for the caller
  std::atomic<std::uint64_t> generation{0};  // of the loop
  std::atomic<int> active{0};                // workers inside the loop
  int asleep = 0;
  bool open = false;  // workers may still join the loop
  bool stop = false;
  std::exception_ptr error;
  const int spins;

  explicit Pool(int threads)
      : runs(threads), spins(threads <= static_cast<int>(std::thread::hardware_concurrency()) ? kSpins : 0) {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { worker(i); });
  }

  void take_tasks(std::size_t own) {
    inside_task = true;
    for (std::size_t k = 0; k < runs.size(); ++k) {
      Run& run = runs[(own + k) % runs.size()];
      if (run.next.load(std::memory_order_relaxed) >= run.end) continue;
      for (std::int64_t i; (i = run.next.fetch_add(1, std::memory_order_relaxed)) < run.end;) {
        try {
          (*task)(i);
        } catch (...) {
          std::lock_guard<std::mutex> lock(mutex);
          if (!error) error = std::current_exception();
          for (Run& r : runs) r.next.store(r.end, std::memory_order_relaxed);
        }
      }
    }
    inside_task = false;
  }

  void worker(std::size_t own) {
    std::uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < spins && generation.load(std::memory_order_relaxed) == seen; ++i) pause();
      std::unique_lock<std::mutex> lock(mutex);
      if (generation.load(std::memory_order_relaxed) == seen && !stop) {
        ++asleep;
        wake.wait(lock, [&] { return stop || generation.load(std::memory_order_relaxed) != seen; });
        --asleep;
      }
      if (stop) return;
      seen = generation.load(std::memory_order_relaxed);
      if (!open) continue;
      active.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      take_tasks(own);
      lock.lock();
      if (active.fetch_sub(1, std::memory_order_release) == 1) finished.notify_one();
    }
  }

  void run(std::int64_t n, const std::function<void(std::int64_t)>& f) {
    int sleepers;
    {
      std::lock_guard<std::mutex> lock(mutex);
      task = &f;
      const auto threads = static_cast<std::int64_t>(runs.size());
      for (std::int64_t k = 0; k < threads; ++k) {
        runs[k].next.store(n * k / threads, std::memory_order_relaxed);
        runs[k].end = n * (k + 1) / threads;
      }
      error = nullptr;
      open = true;
      generation.fetch_add(1, std::memory_order_relaxed);
      sleepers = asleep;
    }
    const auto wanted = std::min<std::int64_t>(sleepers, n - 1);
    for (std::int64_t i = 0; i < wanted; ++i) wake.notify_one();
    take_tasks(0);
    {
      std::lock_guard<std::mutex> lock(mutex);
      open = false;
    }
    for (int i = 0; i < spins && active.load(std::memory_order_relaxed) != 0; ++i) pause();
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [&] { return active.load(std::memory_order_acquire) == 0; });
    task = nullptr;
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop = true;
      generation.fetch_add(1, std::memory_order_relaxed);  // ends the search for new work
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

std::mutex turn;             // one parallel loop at a time; guards the pool
Pool* pool = nullptr;        // never deleted at exit: threads that sleep need no farewell
std::atomic<int> wanted{0};  // threads; 0: not decided yet

// A forked child has none of the parent's threads: it forgets the pool (leaked on purpose) and starts its own.
void forget_pool_in_child() {
  pool = nullptr;
  new (&turn) std::mutex;
  inside_task = false;
}

}  // namespace

int num_threads() {
  int n = wanted.load();
  if (n == 0) {
    n = threads_from_environment();
    wanted.store(n);
  }
  return n;
}

void set_num_threads(int n) {
  std::lock_guard<std::mutex> lock(turn);
  wanted = std::max(1, std::min(n, 1024));
  delete pool;
  pool = nullptr;
}

Inline::Inline(bool small) : before_(inside_task) { inside_task = before_ || small; }
Inline::~Inline() { inside_task = before_; }

void parallel_for(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  if (count <= 0) return;
  if (count == 1 || inside_task || num_threads() == 1) {
    for (std::int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::lock_guard<std::mutex> lock(turn);
  if (!pool) {
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_in_child);
    (void)registered;
    pool = new Pool(num_threads());
  }
  pool->run(count, task);
}

}  // namespace gk::cpu
