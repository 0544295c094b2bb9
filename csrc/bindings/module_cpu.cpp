// The module gankernels._cpu: one line per kernel of core/kernels.inc, then the few knobs of the CPU backend.
#include "../cpu/bf16.hpp"
#include "../cpu/conv_plan.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/epilogue.hpp"
#include "../cpu/kernels.hpp"
#include "../cpu/parallel.hpp"
#include "numpy_view.hpp"
#include "record.hpp"

namespace gk {
void bind_memory(py::module_& m);  // the functions that make arrays and recordings
}

namespace {

template <class T>
py::tuple conv_plan(const gk::ConvGeometry& g, int slot, gk::ConvAlgorithm asked) {
  const auto open = static_cast<gk::cpu::ConvSlot>(slot);
  py::list estimates;
  for (const gk::cpu::ConvEstimate& e : gk::cpu::conv_estimates<T>(g, open, asked))
    estimates.append(
        py::make_tuple(static_cast<int>(e.path), e.products, e.visits, e.packed, e.stored, e.weights, e.cost));
  return py::make_tuple(static_cast<int>(gk::cpu::conv_plan<T>(g, open, asked)), estimates);
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  using namespace gk;
  namespace kernels = gk::cpu;
  m.doc() = "CPU kernels of gankernels; called by gankernels.backends.cpu only";

  GK_BIND(m, conv);
  GK_BIND(m, conv_transpose);
  GK_BIND(m, conv_weight);
  GK_BIND(m, upsample_conv);
  GK_BIND(m, upsample_conv_transpose);
  GK_BIND(m, upsample_conv_weight);
  GK_BIND(m, local_conv);
  GK_BIND(m, local_conv_transpose);
  GK_BIND(m, local_conv_weight);
  GK_BIND(m, im2col);
  GK_BIND(m, col2im);
  GK_BIND(m, matmul);

  GK_BIND(m, upsample_nearest);
  GK_BIND(m, sum_blocks);
  GK_BIND(m, max_window);
  GK_BIND(m, gather_window);
  GK_BIND(m, scatter_window);
  GK_BIND(m, average_window);
  GK_BIND(m, spread_window);

  GK_BIND(m, unary);
  GK_BIND(m, binary);
  GK_BIND_INTEGERS(m, binary);
  GK_BIND(m, compare);
  GK_BIND_INTEGERS(m, compare);
  GK_BIND(m, gate);
  GK_BIND(m, select);
  GK_BIND_INTEGERS(m, select);
  GK_BIND(m, copy);
  GK_BIND_INTEGERS(m, copy);
  GK_BIND(m, fill);
  GK_BIND_INTEGERS(m, fill);
  GK_BIND_FROM(m, cast, float);
  GK_BIND_FROM(m, cast, double);
  GK_BIND_FROM(m, cast, int64_t);
  GK_BIND_FROM(m, cast, bool);

  GK_BIND(m, sum);
  bind_kernel(m, "sum", &cpu::sum<int64_t>);
  GK_BIND(m, softmax);
  GK_BIND(m, log_softmax);

  GK_BIND(m, channel_moments);
  GK_BIND(m, channel_affine);
  GK_BIND(m, batch_norm_backward);

  GK_BIND(m, gather_rows);
  GK_BIND_INTEGERS(m, gather_rows);
  GK_BIND(m, scatter_rows);

  GK_BIND(m, random_uniform);
  GK_BIND(m, random_normal);
  GK_BIND(m, dropout);

  bind_kernel(m, "epilogue", &cpu::epilogue<float>);
  bind_kernel(m, "epilogue", &cpu::epilogue<double>);
  bind_kernel(m, "conv_epilogue", &cpu::conv_epilogue<float>);
  bind_kernel(m, "conv_epilogue", &cpu::conv_epilogue<double>);
  bind_kernel(m, "conv_transpose_epilogue", &cpu::conv_transpose_epilogue<float>);
  bind_kernel(m, "conv_transpose_epilogue", &cpu::conv_transpose_epilogue<double>);
  bind_kernel(m, "upsample_conv_epilogue", &cpu::upsample_conv_epilogue<float>);
  bind_kernel(m, "upsample_conv_epilogue", &cpu::upsample_conv_epilogue<double>);
  bind_kernel(m, "matmul_epilogue", &cpu::matmul_epilogue<float>);
  bind_kernel(m, "matmul_epilogue", &cpu::matmul_epilogue<double>);
  bind_kernel(m, "epilogue_backward", &cpu::epilogue_backward<float>);
  bind_kernel(m, "epilogue_backward", &cpu::epilogue_backward<double>);
  bind_kernel(m, "norm_epilogue", &cpu::norm_epilogue<float>);
  bind_kernel(m, "norm_epilogue", &cpu::norm_epilogue<double>);
  bind_kernel(m, "norm_epilogue_backward", &cpu::norm_epilogue_backward<float>);
  bind_kernel(m, "norm_epilogue_backward", &cpu::norm_epilogue_backward<double>);

  GK_BIND(m, sgd_step);
  GK_BIND(m, adam_step);
  GK_BIND(m, rmsprop_step);
  GK_BIND(m, lerp);

  bind_memory(m);
  m.def("conv_plan_float32", &conv_plan<float>, "(path, estimates of the paths) for (geometry, slot, asked)");
  m.def("conv_plan_float64", &conv_plan<double>);
  m.def("num_threads", &cpu::num_threads);
  m.def("set_num_threads", &cpu::set_num_threads);
  m.def("isa", &cpu::isa_name, "the instruction set in use");
  m.def("isa_present", &cpu::isa_present,
        "instruction sets compiled in that this processor and operating system can run");
  m.def(
      "has_bf16_products", [] { return cpu::bf16_table() != nullptr; },
      "does the instruction set in use multiply pairs of bfloat16 numbers?");
  m.def("isa_compiled", &cpu::isa_compiled);
  m.def("set_isa", &cpu::set_isa, "choose by name one of isa_present()");
}
