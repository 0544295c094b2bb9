// The table of inner loops for the instruction set in use; integers have a shorter one of their own.
#pragma once

#include <type_traits>

#include "integers.hpp"
#include "isa/elements.hpp"
#include "isa/table.hpp"

namespace gk::cpu {

GK_ISA_TABLE(ElementTable<float>, elements_f32)
GK_ISA_TABLE(ElementTable<double>, elements_f64)

template <class T>
const auto& elements() {
  if constexpr (std::is_same_v<T, float>) {
    return elements_f32();
  } else if constexpr (std::is_same_v<T, double>) {
    return elements_f64();
  } else {
    return integers<T>();
  }
}

}  // namespace gk::cpu
