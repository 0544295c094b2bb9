// Columns of a convolution, cols(N, C*K, P), for columns.cu and the path through them. x has five axes here.
#pragma once

#include "../core/geometry.hpp"
#include "../core/view.hpp"
#include "epilogue.cuh"

namespace gk::cuda {

template <class T>
struct Columns {
  T* data;
  int64_t image, row, position;  // strides
};

template <class T>
void make_columns(View<const T> x, Columns<T> cols, const ConvGeometry& g);
// x = for every cell the sum of the entries that were read from it, and what follows; S is T or Compute<T>
template <class S, class T>
void add_columns(Columns<const S> cols, View<T> x, const ConvGeometry& g, const Epilogue<T>& after);

}  // namespace gk::cuda
