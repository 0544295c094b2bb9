// gankernels.backends.DeviceArray -> View, without ever casting or copying: another dtype does not match the overload.
// The array's slot `native` keeps the converted view, so that the attributes are read once for each array.
#pragma once

#include <pybind11/numpy.h>

#include <type_traits>

#include "../core/bfloat16.hpp"
#include "convert.hpp"

namespace gk {

// NumPy's number of an element's type. That of bfloat16, which NumPy does not have, is given out anew in every process:
// it is known by kind and size.
constexpr int kBfloat16 = -2;
template <class T>
int type_number() {
  if constexpr (std::is_same_v<T, bfloat16>)
    return kBfloat16;
  else
    return pybind11::dtype::num_of<T>();
}
inline int type_number(const py::dtype& type) {
  return type.kind() == 'V' && type.itemsize() == sizeof(bfloat16) ? kBfloat16 : type.num();
}

// A DeviceArray as kernels see it; strides in elements.
struct NativeView {
  View<void> view;
  int dtype = -1;              // type_number
  bool writable_shape = true;  // no broadcast axis

  static NativeView* of(py::handle array) {
    py::object cached = array.attr("native");
    if (!cached.is_none()) return py::cast<NativeView*>(cached);
    auto* made = new NativeView(array);
    array.attr("native") = py::cast(made, py::return_value_policy::take_ownership);
    return made;
  }

  explicit NativeView(py::handle array) {
    const auto type = py::reinterpret_borrow<py::dtype>(array.attr("dtype"));
    const auto shape = py::reinterpret_borrow<py::tuple>(array.attr("shape"));
    const auto strides = py::reinterpret_borrow<py::tuple>(array.attr("strides"));
    const auto rank = static_cast<int>(shape.size());
    if (rank > kMaxRank)
      throw py::value_error("a device array has " + std::to_string(rank) + " axes, kernels take " +
                            std::to_string(kMaxRank) + " at most");
    dtype = type_number(type);
    view.rank = rank;
    const auto itemsize = static_cast<int64_t>(type.itemsize());
    for (int i = 0; i < rank; ++i) {
      view.shape[i] = shape[i].cast<int64_t>();
      const auto stride = strides[i].cast<int64_t>();
      if (stride % itemsize != 0) throw py::value_error("a stride of a device array is not a multiple of its items");
      view.stride[i] = stride / itemsize;
      writable_shape = writable_shape && (stride != 0 || view.shape[i] <= 1);
    }
    writable_shape = writable_shape || view.size() == 0;
    view.data = reinterpret_cast<void*>(array.attr("ptr").cast<std::uintptr_t>());
  }
};

}  // namespace gk

namespace pybind11::detail {

template <class T>
struct type_caster<gk::View<T>> {
  PYBIND11_TYPE_CASTER(gk::View<T>, const_name("DeviceArray"));

  bool load(handle source, bool) {
    using Value = std::remove_const_t<T>;
    if (!hasattr(source, "native")) return false;
    const gk::NativeView* native = gk::NativeView::of(source);
    if (native->dtype != gk::type_number<Value>()) return false;
    if (!std::is_const_v<T> && !native->writable_shape) return false;
    value.data = static_cast<T*>(native->view.data);
    value.rank = native->view.rank;
    for (int i = 0; i < value.rank; ++i) {
      value.shape[i] = native->view.shape[i];
      value.stride[i] = native->view.stride[i];
    }
    return true;
  }
};

}  // namespace pybind11::detail
