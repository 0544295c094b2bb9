// What both modules convert: tuple -> geometry, number -> operation.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../core/geometry.hpp"
#include "../core/operators.hpp"
#include "../core/view.hpp"

namespace py = pybind11;

namespace pybind11::detail {

// Geometry crosses as one flat tuple of integers (`g.pod` in gankernels/geometry.py), in the order of the struct's
// members.
template <class G>
struct geometry_caster {
  static bool load_into(handle source, G& g) {
    static_assert(sizeof(G) % sizeof(int64_t) == 0);
    constexpr size_t count = sizeof(G) / sizeof(int64_t);
    if (!isinstance<tuple>(source)) return false;
    auto values = reinterpret_borrow<tuple>(source);
    if (values.size() != count) return false;
    int64_t* member = reinterpret_cast<int64_t*>(&g);
    for (size_t i = 0; i < count; ++i) member[i] = values[i].cast<int64_t>();
    return true;
  }
};

template <>
struct type_caster<gk::ConvGeometry> {
  PYBIND11_TYPE_CASTER(gk::ConvGeometry, const_name("tuple"));
  bool load(handle source, bool) { return geometry_caster<gk::ConvGeometry>::load_into(source, value); }
};

template <>
struct type_caster<gk::UpsampleConvGeometry> {
  PYBIND11_TYPE_CASTER(gk::UpsampleConvGeometry, const_name("tuple"));
  bool load(handle source, bool) { return geometry_caster<gk::UpsampleConvGeometry>::load_into(source, value); }
};

template <>
struct type_caster<gk::WindowGeometry> {
  PYBIND11_TYPE_CASTER(gk::WindowGeometry, const_name("tuple"));
  bool load(handle source, bool) { return geometry_caster<gk::WindowGeometry>::load_into(source, value); }
};

// Operations and algorithms cross as their number.
template <class E>
struct number_caster {
  PYBIND11_TYPE_CASTER(E, const_name("int"));
  bool load(handle source, bool) {
    if (!PyLong_Check(source.ptr())) return false;
    value = static_cast<E>(PyLong_AsLong(source.ptr()));
    return true;
  }
};
template <>
struct type_caster<gk::UnaryOp> : number_caster<gk::UnaryOp> {};
template <>
struct type_caster<gk::BinaryOp> : number_caster<gk::BinaryOp> {};
template <>
struct type_caster<gk::CompareOp> : number_caster<gk::CompareOp> {};
template <>
struct type_caster<gk::ConvAlgorithm> : number_caster<gk::ConvAlgorithm> {};
template <>
struct type_caster<gk::MatmulPrecision> : number_caster<gk::MatmulPrecision> {};

}  // namespace pybind11::detail
