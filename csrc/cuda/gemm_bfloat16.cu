// Products of arrays of bfloat16 on tensor cores.
#include "gemm_tensor.cuh"

namespace gk::cuda {

template void run_on_tensor_cores<Precision::bf16>(const Gemm<bfloat16>&);

}  // namespace gk::cuda
