// Convolution as explicit columns and a matrix product, per image, group and block of output positions: the plain path
// that every other one is compared with. Sums of weights gradients run over images and position blocks in order.
#include <algorithm>

#include "columns.hpp"
#include "conv_paths.hpp"
#include "kernels.hpp"
#include "parallel.hpp"
#include "scratch.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kColumnElements = int64_t(1) << 22;  // columns held at a time
constexpr int64_t kLine = 16;                          // elements of a cache line

template <class T>
View<T> matrix(T* data, int64_t rows, int64_t columns, int64_t row, int64_t column) {
  View<T> v;
  v.data = data;
  v.rank = 3;
  v.shape[0] = 1, v.shape[1] = rows, v.shape[2] = columns;
  v.stride[0] = 0, v.stride[1] = row, v.stride[2] = column;
  return v;
}

// Element i of the row-major volume of a (N, C, D, H, W) view, relative to its (n, c) image.
template <class T>
int64_t volume_offset(const View<T>& v, int64_t i) {
  return i / (v.shape[3] * v.shape[4]) * v.stride[2] + i / v.shape[4] % v.shape[3] * v.stride[3] +
         i % v.shape[4] * v.stride[4];
}

struct Sizes {
  int64_t inputs, outputs, taps, rows, positions, block;  // channels per group; rows = inputs*taps
  explicit Sizes(const ConvGeometry& g)
      : inputs(g.in_channels / g.groups),
        outputs(g.out_channels / g.groups),
        taps(g.taps()),
        rows(inputs * taps),
        positions(g.y_volume()),
        block(std::max<int64_t>(1, std::min(positions, kColumnElements / std::max<int64_t>(1, rows)))) {}
};

// dst(rows, columns) dense <- channels [c, c + rows) x positions [begin, begin + columns) of image n
template <class T>
void gather(const View<const T>& v, int64_t n, int64_t c, int64_t rows, int64_t begin, int64_t columns, T* dst) {
  parallel_for(rows, [&](int64_t r) {
    const T* from = v.data + n * v.stride[0] + (c + r) * v.stride[1];
    for (int64_t i = 0; i < columns; ++i) dst[r * columns + i] = from[volume_offset(v, begin + i)];
  });
}

template <class T>
void pack_weights(const View<const T>& w, int64_t group, const Sizes& s, T* dst) {
  for (int64_t o = 0; o < s.outputs; ++o)
    for (int64_t c = 0; c < s.inputs; ++c)
      for (int64_t k = 0; k < s.taps; ++k)
        *dst++ = w.data[(group * s.outputs + o) * w.stride[0] + c * w.stride[1] + volume_offset(w, k)];
}

// Are the kernels of an output channel one row of memory?
template <class T>
bool kernels_are_dense(const View<const T>& w) {
  int64_t expected = 1;
  for (int i = 4; i > 0; expected *= w.shape[i--])
    if (w.shape[i] != 1 && w.stride[i] != expected) return false;
  return true;
}

template <class T>
void make_columns(const View<const T>& x, const ConvGeometry& g, const Sizes& s, int64_t n, int64_t group,
                  int64_t begin, int64_t count, T* cols) {
  parallel_for(s.inputs, [&](int64_t c) {
    channel_columns(x.data + n * x.stride[0] + (group * s.inputs + c) * x.stride[1], x.stride + 2, g, begin,
                    begin + count, cols + c * s.taps * count, count, 1);
  });
}

// Calls step(n, group, begin, count) for every image, group and block of positions, in order.
template <class Step>
void for_blocks(const ConvGeometry& g, const Sizes& s, Step step) {
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t n = 0; n < g.batch; ++n)
      for (int64_t begin = 0; begin < s.positions; begin += s.block)
        step(n, group, begin, std::min(s.block, s.positions - begin));
}

}  // namespace

template <class T>
void conv_im2col(View<const T> x, View<const T> w, View<T> y, const ConvGeometry& g) {
  const Sizes s(g);
  if (y.size() == 0) return;
  Scratch<T> weights(s.outputs * s.rows), cols(s.rows * s.block), result(s.outputs * s.block);
  for_blocks(g, s, [&](int64_t n, int64_t group, int64_t begin, int64_t count) {
    if (n == 0 && begin == 0) pack_weights(w, group, s, weights.get());
    make_columns(x, g, s, n, group, begin, count, cols.get());
    matmul<T>(matrix<const T>(weights.get(), s.outputs, s.rows, s.rows, 1),
              matrix<const T>(cols.get(), s.rows, count, count, 1), matrix(result.get(), s.outputs, count, count, 1),
              MatmulPrecision::full);
    parallel_for(s.outputs, [&](int64_t o) {
      T* to = y.data + n * y.stride[0] + (group * s.outputs + o) * y.stride[1];
      for (int64_t i = 0; i < count; ++i) to[volume_offset(y, begin + i)] = result.get()[o * count + i];
    });
  });
}

// The positions of all images are the rows of one product, and the weights are read where they lie: they are most of
// what moves where there are few positions.
template <class T>
void conv_transpose_im2col(View<const T> y, View<const T> w, View<T> x, const ConvGeometry& g) {
  const Sizes s(g);
  fill<T>(x, 0.0);
  if (x.size() == 0 || y.size() == 0) return;
  const bool in_place = kernels_are_dense(w);
  const int64_t all = g.batch * s.positions, block = std::max<int64_t>(1, std::min(all, kColumnElements / s.rows));
  const int64_t width = s.rows + kLine;  // rows of a power of two would meet in few sets of the cache
  Scratch<T> weights(in_place ? 0 : s.outputs * s.rows), cols(width * block), cotangent(s.outputs * block);
  for (int64_t group = 0; group < g.groups; ++group) {
    const T* from = in_place ? w.data + group * s.outputs * w.stride[0] : weights.get();
    if (!in_place) pack_weights(w, group, s, weights.get());
    for (int64_t begin = 0; begin < all; begin += block) {
      const int64_t end = std::min(all, begin + block), count = end - begin;
      // step(image, its first and last position in this block, place of the first one in the block)
      const auto for_images = [&](const auto& step) {
        for (int64_t n = begin / s.positions; n * s.positions < end; ++n) {
          const int64_t first = std::max(begin, n * s.positions);
          step(n, first - n * s.positions, std::min(end - n * s.positions, s.positions), first - begin);
        }
      };
      parallel_for(s.outputs, [&](int64_t o) {
        for_images([&](int64_t n, int64_t first, int64_t last, int64_t at) {
          const T* image = y.data + n * y.stride[0] + (group * s.outputs + o) * y.stride[1];
          for (int64_t p = first; p < last; ++p)
            cotangent.get()[o * count + at + p - first] = image[volume_offset(y, p)];
        });
      });
      matmul<T>(matrix<const T>(cotangent.get(), count, s.outputs, 1, count),
                matrix<const T>(from, s.outputs, s.rows, in_place ? w.stride[0] : s.rows, 1),
                matrix(cols.get(), count, s.rows, width, 1), MatmulPrecision::full);
      parallel_for(s.inputs, [&](int64_t c) {
        for_images([&](int64_t n, int64_t first, int64_t last, int64_t at) {
          add_channel_columns(cols.get() + at * width + c * s.taps, 1, width, g, first, last,
                              x.data + n * x.stride[0] + (group * s.inputs + c) * x.stride[1], x.stride + 2);
        });
      });
    }
  }
}

template <class T>
void conv_weight_im2col(View<const T> x, View<const T> y, View<T> w, const ConvGeometry& g) {
  const Sizes s(g);
  fill<T>(w, 0.0);
  if (w.size() == 0 || y.size() == 0) return;
  Scratch<T> product(s.outputs * s.rows), cols(s.rows * s.block), cotangent(s.outputs * s.block);
  for_blocks(g, s, [&](int64_t n, int64_t group, int64_t begin, int64_t count) {
    make_columns(x, g, s, n, group, begin, count, cols.get());
    gather(y, n, group * s.outputs, s.outputs, begin, count, cotangent.get());
    matmul<T>(matrix<const T>(cotangent.get(), s.outputs, count, count, 1),
              matrix<const T>(cols.get(), count, s.rows, 1, count), matrix(product.get(), s.outputs, s.rows, s.rows, 1),
              MatmulPrecision::full);
    const T* from = product.get();
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t c = 0; c < s.inputs; ++c)
        for (int64_t k = 0; k < s.taps; ++k)
          w.data[(group * s.outputs + o) * w.stride[0] + c * w.stride[1] + volume_offset(w, k)] += *from++;
  });
}

#define GK_INSTANTIATE(T)                                                                             \
  template void conv_im2col<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);           \
  template void conv_transpose_im2col<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&); \
  template void conv_weight_im2col<T>(View<const T>, View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
