// Products of float on tensor cores, their factors rounded to tf32 or bfloat16 when they are read from shared memory.
#include "gemm_tensor.cuh"

namespace gk::cuda {

template void run_on_tensor_cores<Precision::tf32>(const Gemm<float>&);
template void run_on_tensor_cores<Precision::bf16>(const Gemm<float>&);

}  // namespace gk::cuda
