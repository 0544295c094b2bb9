// im2col and its adjoint: cols(N, C*K, P) as torch.nn.functional.unfold orders them. A block writes one row's stretch
// of positions, so that lanes write neighbours. col2im gathers: a thread owns a cell and adds the entries that were
// read from it in the order of the taps; no atomics, the same bits every time.
#include "columns.hpp"

#include <algorithm>
#include <climits>

#include "conv_paths.hpp"
#include "index.cuh"
#include "kernels.hpp"
#include "launch.cuh"

namespace gk::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void im2col_kernel(View<const T> x, Columns<T> cols, const ConvGeometry g, int64_t stretches,
                              int64_t total) {
  const int64_t taps = g.kernel[1] * g.kernel[2], positions = g.y[0] * g.y[1] * g.y[2];
  for (int64_t block = blockIdx.x; block < total; block += gridDim.x) {
    const int64_t row = divide(block, stretches), p = (block - row * stretches) * kThreads + threadIdx.x;
    if (p >= positions) continue;
    const int64_t c = divide(row, g.kernel[0] * taps), tap = row - c * g.kernel[0] * taps, n = divide(c, g.in_channels);
    const int64_t kd = divide(tap, taps), kh = divide(tap - kd * taps, g.kernel[2]);
    const int64_t line = divide(p, g.y[2]), pd = divide(line, g.y[1]);
    const int64_t k[3] = {kd, kh, tap - kd * taps - kh * g.kernel[2]};
    const int64_t position[3] = {pd, line - pd * g.y[1], p - line * g.y[2]};
    const T* from = x.data + n * x.stride[0] + (c - n * g.in_channels) * x.stride[1];
    bool inside = true;
    for (int axis = 0; axis < 3; ++axis) {
      const int64_t cell = g.stride[axis] * position[axis] + g.dilation[axis] * k[axis] - g.pad_lo[axis];
      inside &= cell >= 0 && cell < g.x[axis];
      from += cell * x.stride[axis + 2];
    }
    const int64_t in_image = row - n * g.in_channels * g.kernel[0] * taps;
    cols.data[n * cols.image + in_image * cols.row + p * cols.position] = inside ? *from : T(0);
  }
}

struct PhaseAxes {
  PhaseAxis axis[3];
};

template <class S, class T>
__global__ void col2im_kernel(Columns<const S> cols, View<T> x, const ConvGeometry g, const PhaseAxes axes,
                              int64_t total, const Epilogue<T> after) {
  for (int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x; i < total; i += int64_t(gridDim.x) * kThreads) {
    const int64_t line = divide(i, g.x[2]), plane = divide(line, g.x[1]), image = divide(plane, g.x[0]);
    const int64_t cell[3] = {plane - image * g.x[0], line - plane * g.x[1], i - line * g.x[2]};
    const int64_t n = divide(image, g.in_channels), c = image - n * g.in_channels;
    PhaseTaps at[3];
    for (int axis = 0; axis < 3; ++axis) at[axis] = phase_taps(axes.axis[axis], cell[axis]);
    const S* from = cols.data + n * cols.image + c * g.kernel[0] * g.kernel[1] * g.kernel[2] * cols.row;
    Compute<T> sum[1] = {0};
    for (int64_t d = 0; d < at[0].count; ++d)
      for (int64_t h = 0; h < at[1].count; ++h)
        for (int64_t w = 0; w < at[2].count; ++w) {
          const int64_t number[3] = {d, h, w};
          int64_t tap = 0, p = 0;
          bool inside = true;
          for (int axis = 0; axis < 3; ++axis) {
            const int64_t position = at[axis].position - number[axis] * axes.axis[axis].back;
            inside &= position >= 0 && position < g.y[axis];
            tap = tap * g.kernel[axis] + at[axis].first + number[axis] * axes.axis[axis].every;
            p = p * g.y[axis] + position;
          }
          if (inside) sum[0] += from[tap * cols.row + p * cols.position];
        }
    T* const to = x.data + n * x.stride[0] + c * x.stride[1] + cell[0] * x.stride[2] + cell[1] * x.stride[3] +
                  cell[2] * x.stride[4];
    if (after.y != nullptr) finish<1>(after, sum, to, c, 0);
    *to = static_cast<T>(sum[0]);
  }
}

dim3 blocks(int64_t count) { return dim3(static_cast<unsigned>(std::min<int64_t>(count, INT_MAX))); }

}  // namespace

template <class T>
void make_columns(View<const T> x, Columns<T> cols, const ConvGeometry& g) {
  const int64_t rows = g.batch * g.in_channels * g.taps(), stretches = (g.y_volume() + kThreads - 1) / kThreads;
  if (rows * stretches == 0) return;
  launch({blocks(rows * stretches), dim3(kThreads)}, im2col_kernel<T>, x, cols, g, stretches, rows * stretches);
}

template <class S, class T>
void add_columns(Columns<const S> cols, View<T> x, const ConvGeometry& g, const Epilogue<T>& after) {
  const int64_t total = x.size();
  if (total == 0) return;
  const PhaseAxes axes{{phase_axis(g, 0), phase_axis(g, 1), phase_axis(g, 2)}};
  launch({blocks((total + kThreads - 1) / kThreads), dim3(kThreads)}, col2im_kernel<S, T>, cols, x, g, axes, total,
         after);
}

template <class T>
void im2col(View<const T> x, View<T> cols, const ConvGeometry& g) {
  make_columns(x.volume(), Columns<T>{cols.data, cols.stride[0], cols.stride[1], cols.stride[2]}, g);
}

template <class T>
void col2im(View<const T> cols, View<T> x, const ConvGeometry& g) {
  add_columns(Columns<const T>{cols.data, cols.stride[0], cols.stride[1], cols.stride[2]}, x.volume(), g,
              Epilogue<T>());
}

#define GK_INSTANTIATE(T)                                                                              \
  template void make_columns<T>(View<const T>, Columns<T>, const ConvGeometry&);                       \
  template void add_columns<T, T>(Columns<const T>, View<T>, const ConvGeometry&, const Epilogue<T>&); \
  template void im2col<T>(View<const T>, View<T>, const ConvGeometry&);                                \
  template void col2im<T>(View<const T>, View<T>, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)
GK_INSTANTIATE(bfloat16)
template void add_columns<float, bfloat16>(Columns<const float>, View<bfloat16>, const ConvGeometry&,
                                           const Epilogue<bfloat16>&);

}  // namespace gk::cuda
