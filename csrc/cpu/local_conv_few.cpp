// Locally connected convolution of a few images: reading the weights is the cost, so they are read once, where they
// lie. (position, tap) is the lane; the cells of x are laid out alike, channels are added up, then taps.
#include <algorithm>

#include "local_conv.hpp"
#include "parallel.hpp"

namespace gk::cpu {

template <class T>
bool few_local_images(const ConvGeometry& g) {
  const ConvTable<T>& table = conv_table<T>();
  return g.batch <= table.wide_outputs && g.y_volume() * g.taps() >= table.lanes;
}

template <class T>
void local_conv_few(const View<const T>& x, const View<const T>& w, const View<T>& y, const ConvGeometry& g) {
  const ConvTable<T>& table = conv_table<T>();
  const int64_t L = table.lanes, N = g.batch, K = g.taps(), P = g.y_volume(), weights = P * K;
  const int64_t C = g.in_channels / g.groups, O = g.out_channels / g.groups, slabs = (P + L - 1) / L;
  const int images = tile_outputs(table, N);
  const int64_t vector = images * L, widest = table.max_positions[images];
  std::vector<int64_t> cell(weights, -1);  // of x, by weight
  for (const LocalTap& tap : taps_of_y(g).taps) cell[tap.weight] = tap.cell;
  std::vector<TapOffset> outputs(widest);
  for (int64_t o = 0; o < widest; ++o) outputs[o] = {o * w.stride[0], o * vector};
  const Inline small(N * g.out_channels * C * weights <= kSmallWork);
  // L positions are K vectors of weights; the last vector of all overlaps the one before it.
  parallel_for(g.groups * slabs, [&](int64_t task) {
    const int64_t group = task / slabs, first = task % slabs * L, last = std::min(P, first + L);
    const int64_t count = (last - first) * K, vectors = (count + L - 1) / L;
    const auto start = [&](int64_t v) { return std::min(first * K + v * L, weights - L); };
    Scratch<T> cells(C * vector), products(vectors * O * vector), line(count);
    std::fill_n(products.get(), vectors * O * vector, T(0));
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t* at = cell.data() + start(v);
      T* to = cells.get();
      for (int64_t c = 0; c < C; ++c)
        for (int64_t n = 0; n < images; ++n, to += L) {
          const T* from = n < N ? x.data + n * x.stride[0] + (group * C + c) * x.stride[1] : nullptr;
          for (int64_t l = 0; l < L; ++l) to[l] = from && at[l] >= 0 ? from[at[l]] : T(0);
        }
      for (int64_t o = 0; o < O; o += widest)
        table.weight_tile[images][std::min(widest, O - o)](w.data + (group * O + o) * w.stride[0] + start(v),
                                                           w.stride[1], cells.get(), vector, C, 1, outputs.data(),
                                                           products.get() + (v * O + o) * vector);
    }
    for (int64_t o = 0; o < O; ++o)
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t v = 0; v < vectors; ++v) {
          const T* from = products.get() + (v * O + o) * vector + n * L;
          const int64_t skipped = first * K + v * L - start(v);
          std::copy(from + skipped, from + std::min(L, skipped + count - v * L), line.get() + v * L);
        }
        T* to = y.data + n * y.stride[0] + (group * O + o) * y.stride[1] + first;
        for (int64_t p = 0; p < last - first; ++p) {
          T sum = line.get()[p * K];
          for (int64_t k = 1; k < K; ++k) sum += line.get()[p * K + k];
          to[p] = sum;
        }
      }
  });
}

#define GK_INSTANTIATE(T)                                 \
  template bool few_local_images<T>(const ConvGeometry&); \
  template void local_conv_few(const View<const T>&, const View<const T>&, const View<T>&, const ConvGeometry&);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
