// Matrix products of any strides: the plainest instance of the product of gemm.hpp. The axis of c that is contiguous
// in memory is m, along which neighbouring lanes write.
#include <utility>

#include "../core/error.hpp"
#include "epilogue.hpp"
#include "gemm.hpp"
#include "kernels.hpp"

namespace gk::cuda {
namespace {

template <class T>
Operand<T> operand(View<const T> v, int line, int inner) {
  Operand<T> o;
  o.data = v.data;
  o.batch.stride[0] = v.stride[0], o.line.stride[0] = v.stride[line], o.inner.stride[0] = v.stride[inner];
  o.inner_fastest = v.stride[inner] == 1 && v.stride[line] != 1;
  return o;
}

template <class T>
void product(View<const T> a, View<const T> b, View<T> c, MatmulPrecision p, const Epilogue<T>& after) {
  Gemm<T> g;
  g.after = after, g.channels_along_m = true;
  g.a = operand(b, 2, 1), g.b = operand(a, 1, 2);
  g.c = c.data;
  g.m.outer = c.shape[2], g.n.outer = c.shape[1], g.k.outer = a.shape[2], g.batch.outer = c.shape[0];
  g.c_m[0] = c.stride[2], g.c_n[0] = c.stride[1], g.c_batch[0] = c.stride[0];
  if (c.stride[1] == 1 || (c.stride[2] != 1 && c.shape[2] < c.shape[1])) {
    std::swap(g.a, g.b), std::swap(g.m, g.n);
    std::swap(g.c_m[0], g.c_n[0]);
    g.channels_along_m = false;
  }
  run_gemm(g, p == MatmulPrecision::bf16   ? Precision::bf16
              : p == MatmulPrecision::tf32 ? Precision::tf32
                                           : Precision::fma);
}

}  // namespace

template <class T>
void matmul(View<const T> a, View<const T> b, View<T> c, MatmulPrecision p) {
  product(a, b, c, p, Epilogue<T>());
}

template <class T>
void matmul_epilogue(View<const T> a, View<const T> b, View<T> c, MatmulPrecision precision,
                     View<const Compute<T>> bias, double slope, double p, uint64_t seed, uint64_t offset) {
  GK_CHECK(c.shape[0] == 1, "an epilogue of a batch of products");
  product(a, b, c, precision, epilogue_of(c, bias, slope, p, seed, offset));
}

#define GK_INSTANTIATE(T)                                                                                          \
  template void matmul<T>(View<const T>, View<const T>, View<T>, MatmulPrecision);                                 \
  template void matmul_epilogue<T>(View<const T>, View<const T>, View<T>, MatmulPrecision, View<const Compute<T>>, \
                                   double, double, uint64_t, uint64_t);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
