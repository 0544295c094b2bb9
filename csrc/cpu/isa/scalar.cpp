// The baseline of the target, in vectors of 16 bytes (SSE2, NEON): what runs where nothing better is known.
// Only intrinsics headers and table structs are included here, and everything lives in this namespace.

#include "conv.hpp"
#include "elements.hpp"
#include "fft.hpp"

#define GK_VECTOR_BYTES 16
namespace gk::cpu::scalar {
#include "simd.inl"

#include "lanes.inl"

#include "conv.inl"

#include "elements.inl"

#include "fft.inl"
}  // namespace gk::cpu::scalar
