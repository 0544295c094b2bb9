// The module gankernels._cpu: the kernels of bind_kernels.inc, then the few knobs of the CPU backend.
#include "../core/optim_factors.hpp"
#include "../cpu/bf16.hpp"
#include "../cpu/conv_plan.hpp"
#include "../cpu/dispatch.hpp"
#include "../cpu/epilogue.hpp"
#include "../cpu/kernels.hpp"
#include "../cpu/parallel.hpp"
#include "../cpu/tiles.hpp"
#include "numpy_view.hpp"
#include "record.hpp"

#ifdef GK_AMX_EMULATED
#include "../cpu/isa/tile_model.hpp"
#endif

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

// For backends that are not written in C++.
void bind_optim_factors(py::module_& m) {
  m.def(
      "sgd_factors",
      [](double lr, double momentum, double dampening, double weight_decay, bool nesterov, std::int64_t step) {
        const auto f = gk::sgd_factors<double>(lr, momentum, dampening, weight_decay, nesterov, step);
        return py::make_tuple(f.lr, f.momentum, f.keep, f.weight_decay);
      },
      "lr, momentum, keep, weight_decay");
  m.def(
      "adam_factors",
      [](double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled, std::int64_t step) {
        const auto f = gk::adam_factors<double>(lr, beta1, beta2, eps, weight_decay, decoupled, step);
        return py::make_tuple(f.decay, f.weight_decay, f.one_minus_beta1, f.beta2, f.one_minus_beta2, f.step_size,
                              f.root_scale, f.eps);
      },
      "decay, weight_decay, 1 - beta1, beta2, 1 - beta2, step_size, root_scale, eps");
  m.def(
      "rmsprop_factors",
      [](double lr, double alpha, double eps, double weight_decay, double momentum) {
        const auto f = gk::rmsprop_factors<double>(lr, alpha, eps, weight_decay, momentum);
        return py::make_tuple(f.lr, f.alpha, f.one_minus_alpha, f.eps, f.weight_decay, f.momentum);
      },
      "lr, alpha, 1 - alpha, eps, weight_decay, momentum");
  m.def(
      "lerp_factors",
      [](double t) {
        const auto f = gk::lerp_factors<double>(t);
        return py::make_tuple(f.part, f.from_a);
      },
      "part, from_a");
}

}  // namespace

PYBIND11_MODULE(_cpu, m, py::mod_gil_not_used()) {
  using namespace gk;
  namespace kernels = gk::cpu;
  m.doc() = "CPU kernels of gankernels; called by gankernels.backends only";

#include "bind_kernels.inc"
  GK_BIND(m, epilogue);
  GK_BIND(m, conv_gradients);

  bind_memory(m);
  bind_optim_factors(m);
  m.def("conv_plan_float32", &conv_plan<float>, "(path, estimates of the paths) for (geometry, slot, asked)");
  m.def("conv_plan_float64", &conv_plan<double>);
  m.def("conv_gradients_share_float32", &cpu::conv_gradients_share<float>, "for (geometry, asked)");
  m.def("conv_gradients_share_float64", &cpu::conv_gradients_share<double>);
  m.def("num_threads", &cpu::num_threads);
  m.def("set_num_threads", &cpu::set_num_threads);
  m.def("isa", &cpu::isa_name, "the instruction set in use");
  m.def("isa_present", &cpu::isa_present,
        "instruction sets compiled in that this processor and operating system can run");
  m.def(
      "has_bf16_products", [] { return cpu::bf16_table() != nullptr; },
      "does the instruction set in use multiply pairs of bfloat16 numbers?");
  m.def("isa_compiled", &cpu::isa_compiled);
  m.def("why_no_tiles", &cpu::why_no_tiles, "why \"amx\" is not among isa_present(); empty if it is");
  m.attr("tiles_are_emulated") = cpu::tiles_are_emulated();
#ifdef GK_AMX_EMULATED
  m.def("threads_with_tiles", &cpu::tile_model::threads_with_tiles);
  m.def("tile_products_done", &cpu::tile_model::products_done);
#endif
  m.def("set_isa", &cpu::set_isa, "choose by name one of isa_present()");
}
