// Which tiles a product takes: plain multiply-adds here, tensor cores in files of their own, so that compilers share
// the work.
#include "gemm.cuh"

namespace gk::cuda {

template <class T>
void run_gemm(const Gemm<T>& g, [[maybe_unused]] Precision precision) {
  const int64_t n = g.n.count();
  if (g.m.count() * n * g.batch.count() == 0) return;
  if constexpr (std::is_same_v<T, bfloat16>) {
    run_on_tensor_cores<Precision::bf16>(g);
  } else if constexpr (sizeof(T) == 8) {
    if (n <= 8) return run_tiles<FmaTile<T, 128, 8, 4, 2>>(g);
    return run_tiles<FmaTile<T, 64, 64, 4, 4>>(g);
  } else {
    if (precision == Precision::tf32) return run_on_tensor_cores<Precision::tf32>(g);
    if (precision == Precision::bf16) return run_on_tensor_cores<Precision::bf16>(g);
    if (n <= 8) return run_tiles<FmaTile<T, 256, 8, 4, 4>>(g);
    if (n <= 32 || (n > 48 && n <= 64)) return run_tiles<FmaTile<T, 128, 32, 8, 4>>(g);
    if (n <= 48 || g.m.count() <= 64) return run_tiles<FmaTile<T, 128, 48, 8, 4>>(g);
    return run_tiles<FmaTile<T, 128, 128, 8, 8>>(g);
  }
}

template void run_gemm<float>(const Gemm<float>&, Precision);
template void run_gemm<double>(const Gemm<double>&, Precision);
template void run_gemm<bfloat16>(const Gemm<bfloat16>&, Precision);

}  // namespace gk::cuda
