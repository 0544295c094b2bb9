// The table of inner loops for the instruction set in use.
#pragma once

#include <type_traits>

#include "isa/elements.hpp"
#include "isa/table.hpp"

namespace gk::cpu {

GK_ISA_TABLE(ElementTable<float>, elements_f32)
GK_ISA_TABLE(ElementTable<double>, elements_f64)

template <class T>
const ElementTable<T>& elements() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
  if constexpr (std::is_same_v<T, float>) {
    return elements_f32();
  } else {
    return elements_f64();
  }
}

}  // namespace gk::cpu
