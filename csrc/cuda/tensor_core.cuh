// Tensor cores and asynchronous copies, sm_80 and up: one thin wrapper for each PTX instruction, and its emulated twin.
// Fragments as in the PTX manual, with g = lane/4 and t = lane%4:
//   m16n8k16 bf16: a[i] holds row g + 8*(i%2), columns 2t + 8*(i/2) and the next; b[i] holds rows 2t + 8*i and the
//   next,
//                  column g; d[i] is row g + 8*(i/2), column 2t + i%2
//   m16n8k8 tf32:  a[i] is row g + 8*(i%2), column t + 4*(i/2); b[i] is row t + 4*i, column g; d as above
#pragma once

#include "device.cuh"

namespace gk::cuda {

// A float with the 10 bits of mantissa that the tensor core reads, rounded to nearest.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#if defined(GK_EMULATED)
  const uint32_t u = __float_as_uint(x);
  return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
#else
  uint32_t u;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x));
  return u;
#endif
}

// d(16x8) += a(16x16) b(16x8), bf16 products in float
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(GK_EMULATED)
  emulator::tensor_core_bf16(d, a, b, __FILE__, __LINE__);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d(16x8) += a(16x8) b(8x8), tf32 (see to_tf32) products in float
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(GK_EMULATED)
  emulator::tensor_core_tf32(d, a, b, __FILE__, __LINE__);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// ---- ldmatrix: N matrices of 8 rows of 16 bytes; lane 8*i + r gives the address of row r of matrix i ----------------
// result[i]: row lane/4 of matrix i, 16-bit columns 2*(lane%4) and the next; transposed: rows and columns exchanged
template <int N, bool Transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&result)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
#if defined(GK_EMULATED)
  emulator::load_matrices(result, N, Transposed, row, __FILE__, __LINE__);
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (N == 1 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(result[0]) : "r"(address) : "memory");
  } else if constexpr (N == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(result[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (N == 2 && !Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(result[0]), "=r"(result[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (N == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(result[0]), "=r"(result[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// ---- cp.async: global to shared memory without registers -----------------------------------------------------------
// Bytes: 4, 8 or 16, both addresses aligned to that; where not `valid`, zeros are written and nothing is read.
template <int Bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#if defined(GK_EMULATED)
  emulator::copy_async(shared, global, Bytes, valid ? Bytes : 0);
#else
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {  // .cg: past the first cache, which these bytes would only leave again
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(global), "r"(bytes), "n"(Bytes)
                 : "memory");
  }
#endif
}

// Closes the group of copies that this thread has issued since the last one.
__device__ __forceinline__ void cp_async_commit() {
#if defined(GK_EMULATED)
  emulator::copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `GroupsLeft` of this thread's newest groups are under way; other threads' copies need a barrier too.
template <int GroupsLeft>
__device__ __forceinline__ void cp_async_wait() {
#if defined(GK_EMULATED)
  emulator::copy_wait(GroupsLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
#endif
}

}  // namespace gk::cuda
