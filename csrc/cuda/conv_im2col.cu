// Convolution through columns in memory and a product with them: the plain reference, and the path for geometries whose
// cells need 64-bit numbers. The columns of as many images as fit into 512 MiB (at least one) are made at a time.
#include <algorithm>

#include "columns.hpp"
#include "conv_paths.hpp"
#include "memory.hpp"

namespace gk::cuda {
namespace {

constexpr int64_t kColumnBytes = int64_t(512) << 20;

template <class T>
View<T> images(View<T> v, int64_t first, int64_t count) {
  v.data += first * v.stride[0];
  v.shape[0] = count;
  return v;
}

// Columns of `images` images and the maps of their rows (c, tap) and of their columns (n, p).
template <class T>
struct ImageColumns {
  int64_t images, positions, rows;
  Scratch<T> memory;
  Columns<T> columns;
  Map row, column;

  explicit ImageColumns(const ConvGeometry& g)
      : images(0), positions(g.y_volume()), rows(g.in_channels * g.taps()), memory(size(g)) {
    images = std::min(g.batch, memory_images(g));
    columns = {memory.data(), rows * positions, positions, 1};
    row.stride[3] = positions, row.stride[2] = positions * g.kernel[2];
    row.stride[1] = row.stride[2] * g.kernel[1], row.stride[0] = row.stride[1] * g.kernel[0];
    column.stride[3] = 1, column.stride[2] = g.y[2], column.stride[1] = g.y[1] * g.y[2];
    column.stride[0] = columns.image;
  }
  static int64_t memory_images(const ConvGeometry& g) {
    const int64_t image = g.in_channels * g.taps() * g.y_volume() * static_cast<int64_t>(sizeof(T));
    return std::max<int64_t>(1, kColumnBytes / std::max<int64_t>(1, image));
  }
  static int64_t size(const ConvGeometry& g) {
    return std::min(g.batch, memory_images(g)) * g.in_channels * g.taps() * g.y_volume();
  }
  int64_t group_stride(const ConvGeometry& g) const { return rows / g.groups * positions; }

  // step(first image, geometry of its images) in order
  template <class Step>
  void for_images(const ConvGeometry& g, Step step) const {
    ConvGeometry some = g;
    for (int64_t first = 0; first < g.batch; first += images) {
      some.batch = std::min(images, g.batch - first);
      step(first, some);
    }
  }
};

template <class T>
void set_volume(const View<T>& v, int64_t channels, int64_t* positions, int64_t* channel, int64_t* group) {
  positions[0] = v.stride[0];
  std::copy_n(v.stride + 2, 3, positions + 1);
  channel[0] = v.stride[1], group[0] = channels * v.stride[1];
}

}  // namespace

template <class T>
void conv_im2col(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g, const Epilogue<T>& after) {
  const ImageColumns<T> cols(g);
  const int64_t outputs = g.out_channels / g.groups;
  cols.for_images(g, [&](int64_t first, const ConvGeometry& some) {
    make_columns(images(x, first, some.batch), cols.columns, some);
    Gemm<T> p;
    p.m = digits(some.batch, g.y), p.n.outer = outputs;
    p.k = digits(g.in_channels / g.groups, g.kernel), p.batch.outer = g.groups;
    p.a.data = cols.columns.data, p.a.line = cols.column, p.a.inner = cols.row;
    p.a.batch.stride[0] = cols.group_stride(g);
    p.b.data = w.data, p.b.inner_fastest = true;
    p.b.line.stride[0] = w.stride[0], p.b.batch.stride[0] = outputs * w.stride[0];
    std::copy_n(w.stride + 1, 4, p.b.inner.stride);
    p.c = y.data + first * y.stride[0], p.after = after;
    p.after.moments = nullptr;  // of all images together they are another pass
    set_volume(y, outputs, p.c_m, p.c_n, p.c_batch);
    run_gemm(p, Precision::fma);
  });
}

template <class T>
void conv_transpose_im2col(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g,
                           const Epilogue<T>& after) {
  const ImageColumns<Compute<T>> cols(g);
  const int64_t outputs = g.out_channels / g.groups;
  cols.for_images(g, [&](int64_t first, const ConvGeometry& some) {
    Gemm<T> p;
    p.m = digits(some.batch, g.y), p.n = digits(g.in_channels / g.groups, g.kernel);
    p.k.outer = outputs, p.batch.outer = g.groups;
    p.a.data = y.data + first * y.stride[0];
    set_volume(y, outputs, p.a.line.stride, p.a.inner.stride, p.a.batch.stride);
    p.b.data = w.data;
    p.b.inner.stride[0] = w.stride[0], p.b.batch.stride[0] = outputs * w.stride[0];
    std::copy_n(w.stride + 1, 4, p.b.line.stride);
    p.write_to(cols.columns.data);
    p.c_batch[0] = cols.group_stride(g);
    std::copy_n(cols.column.stride, 4, p.c_m);
    std::copy_n(cols.row.stride, 4, p.c_n);
    run_gemm(p, Precision::fma);
    const Columns<const Compute<T>> made{cols.columns.data, cols.columns.image, cols.columns.row,
                                         cols.columns.position};
    add_columns(made, images(x, first, some.batch), some, after);
  });
}

template <class T>
void conv_weight_im2col(View<const T> x, View<const T> y, View<Compute<T>> w, const ConvGeometry& g) {
  const ImageColumns<T> cols(g);
  const int64_t outputs = g.out_channels / g.groups;
  cols.for_images(g, [&](int64_t first, const ConvGeometry& some) {
    make_columns(images(x, first, some.batch), cols.columns, some);
    Gemm<T> p;
    p.m = digits(g.in_channels / g.groups, g.kernel), p.n.outer = outputs;
    p.k = digits(some.batch, g.y), p.batch.outer = g.groups;
    p.a.data = cols.columns.data, p.a.line = cols.row, p.a.inner = cols.column;
    p.a.batch.stride[0] = cols.group_stride(g);
    p.a.inner_fastest = p.b.inner_fastest = true;
    p.b.data = y.data + first * y.stride[0];
    set_volume(y, outputs, p.b.inner.stride, p.b.line.stride, p.b.batch.stride);
    p.write_to(w.data);
    p.c_n[0] = w.stride[0], p.c_batch[0] = outputs * w.stride[0];
    std::copy_n(w.stride + 1, 4, p.c_m);
    p.accumulate = first > 0;
    run_gemm(p, Precision::fma);
  });
}

#define GK_INSTANTIATE(T)                                                                                       \
  template void conv_im2col<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&, const Epilogue<T>&); \
  template void conv_transpose_im2col<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&,            \
                                         const Epilogue<T>&);                                                   \
  template void conv_weight_im2col<T>(View<const T>, View<const T>, View<Compute<T>>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)

}  // namespace gk::cuda
