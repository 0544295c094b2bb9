// Starting a kernel: launch({grid, block, shared_bytes}, some_kernel<T>, arguments...) on the backend's stream. A
// launch that fails throws CudaError with the function, file and line that asked for it.
#pragma once

#include <tuple>
#include <utility>

#include "device.cuh"
#include "runtime.hpp"

namespace gk::cuda {

constexpr size_t kStaticSharedLimit = 48 * 1024;  // above this a kernel must be told that it may

struct Launch {
  dim3 grid, block;
  size_t shared;
  Where where;

  Launch(dim3 grid_, dim3 block_, size_t shared_ = 0, const char* function = __builtin_FUNCTION(),
         const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : grid(grid_), block(block_), shared(shared_), where{function, file, line} {}
};

// ceil(n / per): blocks for n elements
inline unsigned blocks_for(int64_t n, int64_t per) { return static_cast<unsigned>((n + per - 1) / per); }

template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;  // nothing to do
  std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
#if defined(GK_EMULATED)
  const auto run = [how, kernel, values] {
    const auto body = [&] { std::apply(kernel, values); };
    emulator::launch(
        how.grid, how.block, how.shared, [](const void* context) { (*static_cast<const decltype(body)*>(context))(); },
        &body, how.where.text());
  };
  submit(run);
#else
  const auto address = reinterpret_cast<const void*>(kernel);
  if (how.shared > kStaticSharedLimit)
    check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared)),
          "cudaFuncSetAttribute", how.where);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
        check(cudaLaunchKernel(address, how.grid, how.block, pointers, how.shared, cuda_stream()), "cudaLaunchKernel",
              how.where);
      },
      values);
#endif
}

}  // namespace gk::cuda
