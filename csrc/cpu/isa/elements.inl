// Everything elementwise for one instruction set. Constants only: no code runs before main, which a processor without
// the instructions could not survive.
#include "math.inl"
#include "optim.inl"
#include "pointwise.inl"
#include "random.inl"
#include "reduce.inl"
#include "window.inl"

#define GK_PLAIN(name) unary_run<T, Unary_##name>
#define GK_BINARY_ENTRY(name)                                                                                 \
  {binary_run<T, Binary_##name, Operands::both_vary>, binary_run<T, Binary_##name, Operands::right_constant>, \
   binary_run<T, Binary_##name, Operands::left_constant>},
#define GK_COMPARE_ENTRY(name) Compare_##name::template run<T>,

template <class T>
struct Elements {
  static constexpr ElementTable<T> table = {
      // in the order of GK_UNARY_OPS
      {GK_PLAIN(negate), GK_PLAIN(absolute),   GK_PLAIN(sign),    GK_PLAIN(exp),    GK_PLAIN(expm1),
       GK_PLAIN(log),    GK_PLAIN(log1p),      GK_PLAIN(sqrt),    GK_PLAIN(rsqrt),  GK_PLAIN(reciprocal),
       GK_PLAIN(square), GK_PLAIN(sin),        GK_PLAIN(cos),     GK_PLAIN(tanh),   GK_PLAIN(sigmoid),
       GK_PLAIN(erf),    GK_PLAIN(floor),      GK_PLAIN(round),   GK_PLAIN(affine), power_run<T>,
       GK_PLAIN(clamp),  GK_PLAIN(clamp_mask), leaky_relu_run<T>, elu_run<T>,       softplus_run<T>},
      {GK_BINARY_OPS(GK_BINARY_ENTRY)},
      {GK_COMPARE_OPS(GK_COMPARE_ENTRY)},
      gate_run<T>,
      bias_act_run<T>,
      bias_act_each_run<T>,
      gate_marked_run<T>,
      select_run<T>,
      sum_run<T>,
      add_rows_run<T>,
      moments_tile<T>,
      {norm_sums_tile<T, Gate::none>, norm_sums_tile<T, Gate::sign>, norm_sums_tile<T, Gate::mark>},
      maximum_run<T>,
      exp_minus_run<T>,
      sum_exp_minus_run<T>,
      divide_by_run<T>,
      {norm_gradient_tile<T, Gate::none>, norm_gradient_tile<T, Gate::sign>, norm_gradient_tile<T, Gate::mark>},
      random_run<T, fill_uniform>,
      random_run<T, fill_normal>,
      dropout_run<T>,
      dropout_marked_run<T>,
      max_tap_run<T>,
      add_tap_run<T>,
      spread_tap_run<T>,
      repeat_run<T>,
      sgd_run<T>,
      adam_run<T>,
      rmsprop_run<T>,
      lerp_run<T>,
  };
};

#undef GK_PLAIN
#undef GK_BINARY_ENTRY
#undef GK_COMPARE_ENTRY

extern const ElementTable<float> elements_f32;
extern const ElementTable<double> elements_f64;
const ElementTable<float> elements_f32 = Elements<float>::table;
const ElementTable<double> elements_f64 = Elements<double>::table;
