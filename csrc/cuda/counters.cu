#include "counters.cuh"

#include <algorithm>
#include <utility>

#include "launch.cuh"

namespace gk::cuda {
namespace {

constexpr int kWords = 32;

struct Words {
  uint64_t word[kWords];
};

__global__ void store_kernel(Words words, int n, uint64_t* target) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) target[i] = words.word[i];
}

__global__ void move_kernel(const Draws* draws, int n, uint64_t* moved) {
  const int i = static_cast<int>(blockIdx.x * kWords + threadIdx.x);
  if (i >= n) return;
  auto* count = reinterpret_cast<uint64_t*>(draws[i].count);
  *count += draws[i].by;
  moved[i] = *count - draws[i].after;
}

thread_local const uint64_t* t_moved = nullptr;

}  // namespace

uint64_t Count::move_to(uint64_t next) {
  if (!there_) {
    fill_zero(word_.address(), word_.bytes());
    there_ = 0;
  }
  return next - std::exchange(*there_, next);
}

void move_counters(const uint64_t* draws, int n, uint64_t* moved) {
  static_assert(sizeof(Draws) == kDrawsWords * sizeof(uint64_t));
  launch({blocks_for(n, kWords), kWords}, move_kernel, reinterpret_cast<const Draws*>(draws), n, moved);
}

Counter counter(uint64_t first) { return {first, t_moved}; }

MovedBy::MovedBy(const uint64_t* moved) { t_moved = moved; }
MovedBy::~MovedBy() { t_moved = nullptr; }

void store_words(uint64_t* target, const uint64_t* words, int n) {
  for (int at = 0; at < n; at += kWords) {
    Words piece{};
    const int count = std::min(kWords, n - at);
    std::copy_n(words + at, count, piece.word);
    launch({1, kWords}, store_kernel, piece, count, target + at);
  }
}

}  // namespace gk::cuda
