// What a block of threads does with one slice (kSlice values of k) of both operands that lies in shared memory.
// Both slices are [k][line]: loads are then contiguous along lines for every kind of tile. Of bfloat16 a word holds two
// neighbours along k, and slices are [k/2][line]. A row of m values is BM long plus a pad that spreads what a warp
// reads at once over all 32 banks.
#pragma once

#include "gemm.hpp"
#include "tensor_core.cuh"

namespace gk::cuda {

constexpr int kSlice = 16;

// Plain multiply-adds: a thread owns TM x TN results in groups of 16 bytes along m and n, so that k costs
// (TM + TN)*sizeof(T)/16 shared loads for TM*TN multiply-adds. 8x8 float (64 results, 128 registers): 4 loads for 64.
template <class T, int BM_, int BN_, int TM, int TN>
struct FmaTile {
  using Element = T;
  using Word = T;
  static constexpr int BM = BM_, BN = BN_, kThreads = BM / TM * (BN / TN), kBlocks = kThreads > 128 ? 2 : 3,
                       kStages = 2, V = kPackSize<T>, kPadM = V, kPadN = V, kColumns = BM / TM, kRows = BN / TN;
  T sum[TM][TN] = {};

  static __device__ int m(int i) { return (i / V * kColumns + threadIdx.x % kColumns) * V + i % V; }
  static __device__ int n(int j) { return (j / V * kRows + threadIdx.x / kColumns) * V + j % V; }

  __device__ void multiply(const T (*a)[BM + kPadM], const T (*b)[BN + kPadN]) {
    GK_UNROLL
    for (int k = 0; k < kSlice; ++k) {
      T x[TM], y[TN];
      GK_UNROLL
      for (int i = 0; i < TM; i += V) {
        const Pack<T, V> p = load_pack<V>(&a[k][m(i)]);
        GK_UNROLL
        for (int v = 0; v < V; ++v) x[i + v] = p.value[v];
      }
      GK_UNROLL
      for (int j = 0; j < TN; j += V) {
        const Pack<T, V> p = load_pack<V>(&b[k][n(j)]);
        GK_UNROLL
        for (int v = 0; v < V; ++v) y[j + v] = p.value[v];
      }
      GK_UNROLL
      for (int i = 0; i < TM; ++i) {
        GK_UNROLL
        for (int j = 0; j < TN; ++j) sum[i][j] = multiply_add(x[i], y[j], sum[i][j]);
      }
    }
  }

  // For one column n after the other results(m, n, values of m, m + 1, ...), then done(n).
  template <class F, class D>
  __device__ void for_each(F results, D done) const {
    GK_UNROLL
    for (int j = 0; j < TN; ++j) {
      GK_UNROLL
      for (int i = 0; i < TM; i += V) {
        T values[V];
        GK_UNROLL
        for (int v = 0; v < V; ++v) values[v] = sum[i + v][j];
        results(m(i), n(j), values);
      }
      done(n(j));
    }
  }

  // The lanes that share a column, and how many such groups do.
  static constexpr int kFirstLane = 1, kLastLane = (kColumns < 32 ? kColumns : 32) / 2,
                       kPieces = kColumns < 32 ? 1 : kColumns / 32;
  static __device__ int piece() { return threadIdx.x % kColumns / 32; }
  static __device__ bool leads() { return threadIdx.x % (2 * kLastLane) == 0; }
};

// Tensor cores: warps are stacked along m, each owns 32 x BN results as 2 x BN/8 products of 16x8. A product sums over
// k in any order, so of floats a lane takes the values k = t, t+4, t+8, t+12 (t = lane % 4) of a slice for its pairs of
// k; of bfloat16 the words t and t+4 are its pairs as they are. With rows of 8 (mod 16) words plus a multiple of 16,
// the 32 words of every read are in 32 banks, no ldmatrix needed.
template <class T, int BM_, int BN_, Precision kPrecision>
struct MmaTile {
  using Element = T;
  using Word = std::conditional_t<std::is_same_v<T, bfloat16>, uint32_t, T>;
  static constexpr bool kPairs = sizeof(Word) > sizeof(T);
  static_assert(!kPairs || kPrecision == Precision::bf16);
  // slices of pairs come through registers, which hold one beside those in shared memory
  static constexpr int BM = BM_, BN = BN_, kThreads = BM, kBlocks = kPairs && BN > 32 ? 3 : 4, kStages = kPairs ? 2 : 3,
                       kPadM = 8, kPadN = BN % 32 == 8 ? 0 : 8, kTilesM = 2, kTilesN = BN / 8,
                       kSteps = kPrecision == Precision::tf32 ? 2 : 1;
  static_assert((BM + kPadM) % 16 == 8 && (BN + kPadN) % 16 == 8, "bank conflicts");
  float sum[kTilesM][kTilesN][4] = {};

  static __device__ int lane() { return threadIdx.x % 32; }
  static __device__ int row(int i) { return threadIdx.x / 32 * 32 + i * 16 + lane() / 4; }

  __device__ void multiply(const Word (*a)[BM + kPadM], const Word (*b)[BN + kPadN]) {
    const int t = lane() % 4;
    uint32_t x[kTilesM][kSteps][4];
    GK_UNROLL
    for (int i = 0; i < kTilesM; ++i) fragment<2, BM + kPadM>(a, row(i), t, x[i]);
    GK_UNROLL
    for (int j = 0; j < kTilesN; ++j) {
      uint32_t y[kSteps][2];
      fragment<1, BN + kPadN>(b, j * 8 + lane() / 4, t, y);
      GK_UNROLL
      for (int i = 0; i < kTilesM; ++i) {
        GK_UNROLL
        for (int q = 0; q < kSteps; ++q) {
          if constexpr (kPrecision == Precision::tf32)
            mma_tf32(sum[i][j], x[i][q], y[q]);
          else
            mma_bf16(sum[i][j], x[i][q], y[q]);
        }
      }
    }
  }

  template <class F, class D>
  __device__ void for_each(F results, D done) const {
    GK_UNROLL
    for (int j = 0; j < kTilesN; ++j) {
      GK_UNROLL
      for (int column = 0; column < 2; ++column) {
        const int n = j * 8 + lane() % 4 * 2 + column;
        GK_UNROLL
        for (int i = 0; i < kTilesM; ++i) {
          GK_UNROLL
          for (int half = 0; half < 2; ++half) {
            float value[1] = {sum[i][j][half * 2 + column]};
            results(row(i) + half * 8, n, value);
          }
        }
        done(n);
      }
    }
  }

  static constexpr int kFirstLane = 4, kLastLane = 16, kPieces = kThreads / 32;
  static __device__ int piece() { return threadIdx.x / 32; }
  static __device__ bool leads() { return lane() < 4; }

 private:
  // Factors, rounded if they are floats, of the lines `line` and, with two halves, `line` + 8.
  template <int kHalves, int kRow>
  static __device__ void fragment(const Word (*s)[kRow], int line, int t, uint32_t (&out)[kSteps][2 * kHalves]) {
    GK_UNROLL
    for (int q = 0; q < 4; ++q) {
      GK_UNROLL
      for (int h = 0; h < kHalves; ++h) {
        if constexpr (kPairs) {
          if (q % 2 == 0) out[0][q / 2 * kHalves + h] = s[t + 2 * q][line + 8 * h];
        } else if constexpr (kPrecision == Precision::tf32)
          out[q / 2][q % 2 * kHalves + h] = to_tf32(s[t + 4 * q][line + 8 * h]);
        else if (q % 2 == 0)
          out[0][q / 2 * kHalves + h] = pack_bf16(s[t + 4 * q][line + 8 * h], s[t + 4 * q + 4][line + 8 * h]);
      }
    }
  }
};

}  // namespace gk::cuda
