// After Intel's Software Developer's Manual, volume 2 (ldtilecfg, tileloadd, tilestored, tilezero, tilerelease,
// tdpbf16ps) with palette 1: 8 tiles of at most 16 rows of 64 bytes.
#include "tile_model.hpp"

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace gk::cpu::tile_model {
namespace {

constexpr int kTiles = 8, kMaxRows = 16, kMaxBytes = 64;

struct Tile {
  int rows = 0, row_bytes = 0;
  unsigned char data[kMaxRows][kMaxBytes] = {};
};

std::atomic<int> with_tiles{0};
std::atomic<std::int64_t> products{0};

struct Thread {
  bool configured = false;
  int start_row = 0;
  Tile tile[kTiles];
};
thread_local Thread state;

[[noreturn]] void fault(const std::string& instruction, const char* what) {
  throw std::runtime_error("tile model: " + instruction + ": " + what);
}

void configured(bool now) {
  if (now != state.configured) with_tiles += now ? 1 : -1;
  state.configured = now;
}

Tile& valid(const char* instruction, int tile) {
  if (!state.configured) fault(instruction, "#UD, no shapes were loaded");
  if (tile < 0 || tile >= kTiles || state.tile[tile].rows == 0) fault(instruction, "#UD, the tile has no shape");
  return state.tile[tile];
}

// Denormals are zeros, and results that would be denormal become zero.
float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

float number(const unsigned char* bf16) {
  std::uint16_t upper;
  std::memcpy(&upper, bf16, 2);
  const std::uint32_t bits = static_cast<std::uint32_t>(upper) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return flushed(x);
}

}  // namespace

void ldtilecfg(const void* shapes) {
  unsigned char buf[64];
  std::memcpy(buf, shapes, 64);
  if (buf[0] > 1) fault("ldtilecfg", "#GP, unknown palette");
  Thread next;
  if (buf[0] == 1) {
    const auto zero = [&](int from, int to) {
      for (int i = from; i < to; ++i)
        if (buf[i] != 0) fault("ldtilecfg", "#GP, reserved bytes are not zero");
    };
    zero(2, 16), zero(32, 48), zero(48 + kTiles, 64);
    next.start_row = buf[1];
    for (int t = 0; t < kTiles; ++t) {
      next.tile[t].row_bytes = buf[16 + 2 * t] | buf[17 + 2 * t] << 8;
      next.tile[t].rows = buf[48 + t];
      if (next.tile[t].row_bytes > kMaxBytes) fault("ldtilecfg", "#GP, more than 64 bytes in a row");
      if (next.tile[t].rows > kMaxRows) fault("ldtilecfg", "#GP, more than 16 rows");
      if ((next.tile[t].rows == 0) != (next.tile[t].row_bytes == 0))
        fault("ldtilecfg", "#GP, rows without bytes or bytes without rows");
    }
  }
  next.configured = state.configured;
  state = next;
  configured(buf[0] == 1);
}

void tilerelease() {
  configured(false);
  state = Thread();
}

void tilezero(int tile) { std::memset(valid("tilezero", tile).data, 0, sizeof(Tile::data)); }

void tileloadd(int tile, const void* rows, std::int64_t stride) {
  Tile& t = valid("tileloadd", tile);
  if (state.start_row == 0) std::memset(t.data, 0, sizeof(t.data));
  for (int r = state.start_row; r < t.rows; ++r) {
    std::memset(t.data[r], 0, kMaxBytes);
    std::memcpy(t.data[r], static_cast<const unsigned char*>(rows) + r * stride, static_cast<std::size_t>(t.row_bytes));
  }
  state.start_row = 0;
}

void tilestored(int tile, void* rows, std::int64_t stride) {
  const Tile& t = valid("tilestored", tile);
  for (int r = state.start_row; r < t.rows; ++r)
    std::memcpy(static_cast<unsigned char*>(rows) + r * stride, t.data[r], static_cast<std::size_t>(t.row_bytes));
  state.start_row = 0;
}

// The even and the odd products of a row by a column are added apart, each with one rounding to nearest even, then to
// one another, then to C. (A sum that rounds up to the smallest normal number is kept; the processor may flush it.)
void tdpbf16ps(int c, int a, int b) {
  if (c == a || c == b || a == b) fault("tdpbf16ps", "#UD, two operands are one tile");
  Tile& dst = valid("tdpbf16ps", c);
  const Tile &left = valid("tdpbf16ps", a), &right = valid("tdpbf16ps", b);
  if (dst.row_bytes % 4 || left.row_bytes % 4 || right.row_bytes % 4) fault("tdpbf16ps", "#UD, half an element");
  if (dst.row_bytes != right.row_bytes || dst.rows != left.rows || left.row_bytes / 4 != right.rows)
    fault("tdpbf16ps", "#UD, shapes that do not match");
  const int columns = dst.row_bytes / 4, pairs = left.row_bytes / 4;
  Tile sum;
  for (int m = 0; m < dst.rows; ++m) {
    float part[2][kMaxBytes / 4] = {};
    for (int k = 0; k < pairs; ++k)
      for (int half = 0; half < 2; ++half) {
        const float x = number(left.data[m] + 4 * k + 2 * half);
        for (int n = 0; n < columns; ++n)
          part[half][n] = flushed(std::fma(x, number(right.data[k] + 4 * n + 2 * half), part[half][n]));
      }
    for (int n = 0; n < columns; ++n) {
      float before;
      std::memcpy(&before, dst.data[m] + 4 * n, 4);
      const float after = flushed(flushed(before) + flushed(part[0][n] + part[1][n]));
      std::memcpy(sum.data[m] + 4 * n, &after, 4);
    }
  }
  std::memcpy(dst.data, sum.data, sizeof(sum.data));
  state.start_row = 0;
  ++products;
}

int threads_with_tiles() { return with_tiles; }
std::int64_t products_done() { return products; }

}  // namespace gk::cpu::tile_model
