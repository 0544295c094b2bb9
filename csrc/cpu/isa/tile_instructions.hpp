// The instructions of AMX-TILE and AMX-BF16 that amx.cpp uses, as the processor runs them or as tile_model.cpp does.
// The intrinsics of GCC 11 and 12 take no template parameter for a register.
#pragma once

#include <cstdint>

#ifdef GK_AMX_EMULATED
#include "tile_model.hpp"
#endif

namespace gk::cpu::amx {

// The operand of ldtilecfg.
struct alignas(64) TileShapes {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(TileShapes) == 64);

#ifdef GK_AMX_EMULATED
inline void tile_shapes(const TileShapes& s) { tile_model::ldtilecfg(&s); }
inline void tile_release() { tile_model::tilerelease(); }
template <int T>
void tile_zero() {
  tile_model::tilezero(T);
}
template <int T>
void tile_load(const void* rows, std::int64_t stride) {
  tile_model::tileloadd(T, rows, stride);
}
template <int T>
void tile_store(void* rows, std::int64_t stride) {
  tile_model::tilestored(T, rows, stride);
}
template <int C, int A, int B>
void tile_products() {
  tile_model::tdpbf16ps(C, A, B);
}
#else
inline void tile_shapes(const TileShapes& s) { __asm__ volatile("ldtilecfg %0" ::"m"(s)); }
inline void tile_release() { __asm__ volatile("tilerelease" ::); }
template <int T>
void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
void tile_load(const void* rows, std::int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(T) : "memory");
}
template <int T>
void tile_store(void* rows, std::int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
void tile_products() {  // C += A B
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
#endif

}  // namespace gk::cpu::amx
