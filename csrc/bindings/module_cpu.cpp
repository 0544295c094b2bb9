// The module gankernels._cpu: the kernels of bind_kernels.inc, then the few knobs of the CPU backend.
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

#include "bind_kernels.inc"
  GK_BIND(m, epilogue);

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
