#include "counters.cuh"

#include <algorithm>

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

thread_local const uint64_t* t_moved = nullptr;

}  // namespace

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
