// AVX2 with FMA: vectors of 32 bytes.
// Only intrinsics headers and table structs are included here, and everything lives in this namespace.
#include <immintrin.h>

#include "conv.hpp"
#include "elements.hpp"
#include "fft.hpp"

#define GK_VECTOR_BYTES 32
namespace gk::cpu::avx2 {
#include "simd.inl"

#include "lanes.inl"

#include "conv.inl"

#include "elements.inl"

#include "fft.inl"
}  // namespace gk::cpu::avx2
