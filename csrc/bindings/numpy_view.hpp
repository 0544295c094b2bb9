// NumPy array -> View, without ever casting or copying: another dtype does not match the overload.
#pragma once

#include <pybind11/numpy.h>

#include <type_traits>

#include "convert.hpp"

namespace pybind11::detail {

template <class T>
struct type_caster<gk::View<T>> {
  PYBIND11_TYPE_CASTER(gk::View<T>, const_name("array"));

  bool load(handle source, bool) {
    using Value = std::remove_const_t<T>;
    if (!array_t<Value, 0>::check_(source)) return false;
    auto array = reinterpret_borrow<pybind11::array>(source);
    if (array.ndim() > gk::kMaxRank) return false;
    if (!std::is_const_v<T> && !array.writeable()) return false;
    const auto itemsize = static_cast<ssize_t>(sizeof(Value));
    value.rank = static_cast<int>(array.ndim());
    for (int i = 0; i < value.rank; ++i) {
      if (array.strides(i) % itemsize != 0) return false;
      value.shape[i] = array.shape(i);
      value.stride[i] = array.strides(i) / itemsize;
    }
    value.data = const_cast<Value*>(static_cast<const Value*>(array.data()));
    return reinterpret_cast<std::uintptr_t>(value.data) % alignof(Value) == 0;
  }
};

}  // namespace pybind11::detail
