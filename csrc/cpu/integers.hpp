// Inner loops for indices (int64) and masks (bool), under the names that the tables of float loops use: plain C++, for
// nothing that a network spends time on runs through them.
#pragma once

#include <cstdint>

#include "isa/elements.hpp"

namespace gk::cpu {

template <class T>
struct IntegerTable {
  using Binary = void (*)(const T* a, const T* b, T* y, int64_t n);
  Binary binary[static_cast<int>(BinaryOp::count)][static_cast<int>(Operands::count)];  // null: not defined for T
  void (*compare[static_cast<int>(CompareOp::count)])(const T* a, const T* b, bool* y, int64_t n);
  void (*select)(const bool* condition, const T* a, const T* b, T* y, int64_t n);
};

template <class T>
const IntegerTable<T>& integers();  // T: int64_t, bool

}  // namespace gk::cpu
