// The instructions of tensor_core.cuh: products of the warp's fragments, summed one by one in float.
#include <cstring>

#include "machine.hpp"

namespace gk::emulator {
namespace {

struct Fragments {
  uint32_t a[4], b[2];
};

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
float bf16_half(uint32_t word, int half) { return float_of((word >> (16 * half) & 0xffffu) << 16); }
float tf32(uint32_t word) { return float_of(word & ~0x1fffu); }

template <int K, class A, class B>
void multiply(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line, A&& a_at, B&& b_at) {
  Fragments mine, all[kWarp];
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  exchange_all(0xffffffffu, &mine, all, sizeof mine, file, line);
  const int g = static_cast<int>(lane()) / 4, t = static_cast<int>(lane()) % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    for (int k = 0; k < K; ++k) d[i] += a_at(all, row, k) * b_at(all, k, column);
  }
}

}  // namespace

void tensor_core_bf16(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  multiply<16>(
      d, a, b, file, line,
      [](const Fragments* all, int row, int k) {
        return bf16_half(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], k % 2);
      },
      [](const Fragments* all, int k, int column) { return bf16_half(all[column * 4 + k % 8 / 2].b[k / 8], k % 2); });
}

void tensor_core_tf32(float* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  multiply<8>(
      d, a, b, file, line,
      [](const Fragments* all, int row, int k) { return tf32(all[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)]); },
      [](const Fragments* all, int k, int column) { return tf32(all[column * 4 + k % 4].b[k / 4]); });
}

void load_matrices(uint32_t* result, unsigned count, bool transposed, const void* row, const char* file, int line) {
  if (lane() < 8 * count) check_access(row, 16, 16, false);
  const void* rows[kWarp];
  exchange_all(0xffffffffu, &row, rows, sizeof row, file, line);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned i = 0; i < count; ++i) {
    const auto at = [&](unsigned r, unsigned c) {
      uint16_t half;
      std::memcpy(&half, static_cast<const char*>(rows[8 * i + r]) + 2 * c, sizeof half);
      return static_cast<uint32_t>(half);
    };
    result[i] = transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
}

}  // namespace gk::emulator
