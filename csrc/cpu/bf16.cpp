// Which processors have bf16 products, and rounded copies: what the float32 kernels multiply where a processor or a
// path has none.
#include "bf16.hpp"

#include <algorithm>
#include <cstdlib>

#include "dispatch.hpp"
#include "strided.hpp"

namespace gk::cpu {

#if defined(GK_AVX512_BF16)
namespace avx512_bf16 {
extern const Bf16Table bf16_products;
}

const Bf16Table* bf16_table() {
  static const bool present = has_bf16_instructions();
  return present && isa() >= Isa::avx512 ? &avx512_bf16::bf16_products : nullptr;
}
#else
const Bf16Table* bf16_table() { return nullptr; }
#endif

Bf16Copy::Bf16Copy(const View<const float>& x) : memory_(std::max<int64_t>(1, x.size())), view_(x) {
  // Axes of the copy in the order of the original's strides: kernels prefer what lies in memory as it did.
  int order[kMaxRank];
  for (int i = 0; i < x.rank; ++i) order[i] = i;
  std::stable_sort(order, order + x.rank, [&](int i, int j) { return std::abs(x.stride[i]) > std::abs(x.stride[j]); });
  int64_t step = 1;
  for (int i = x.rank - 1; i >= 0; --i) view_.stride[order[i]] = step, step *= x.shape[order[i]];
  View<float> to;
  to.data = memory_.get(), to.rank = x.rank;
  std::copy_n(view_.shape, kMaxRank, to.shape), std::copy_n(view_.stride, kMaxRank, to.stride);
  view_.data = to.data;
  if (x.size() == 0) return;
  const auto loop = strided_loop(false, to, x);
  loop.parallel_runs([&](int64_t n, const int64_t* offset) {
    const float* from = x.data + offset[1];
    float* at = to.data + offset[0];
    const int64_t step_from = loop.inner_stride(1), step_to = loop.inner_stride(0);
    if (step_from == 1 && step_to == 1)
      for (int64_t i = 0; i < n; ++i) at[i] = bf16_rounded(from[i]);
    else
      for (int64_t i = 0; i < n; ++i) at[i * step_to] = bf16_rounded(from[i * step_from]);
  });
}

}  // namespace gk::cpu
