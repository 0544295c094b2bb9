// AVX-512 (F, DQ, BW, VL): vectors of 64 bytes.
// Only intrinsics headers and table structs are included here, and everything lives in this namespace.
#include <immintrin.h>

#include "conv.hpp"
#include "elements.hpp"
#include "fft.hpp"

#define GK_VECTOR_BYTES 64
namespace gk::cpu::avx512 {
#include "simd.inl"

#include "lanes.inl"

#include "conv.inl"

#include "elements.inl"

#include "fft.inl"
}  // namespace gk::cpu::avx512
