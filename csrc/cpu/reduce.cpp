// Sums over any axes and softmax over rows. Every sum is cut by the shape alone: rows are added in double, row totals
// pairwise, chunk totals pairwise; the error grows with the logarithm of the length and the bits with nothing.
#include <algorithm>
#include <cmath>
#include <vector>

#include "elements.hpp"
#include "kernels.hpp"
#include "strided.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kColumns = 512;  // columns added side by side, a stack buffer of 4 KiB
constexpr int64_t kPiece = 16384;  // longest run of one row total
constexpr int64_t kLeafRows = 32;  // rows added one after another before the pairwise tree
constexpr int64_t kChunk = 65536;  // elements per task

// Some axes of x (and y), outermost first.
struct Axes {
  int rank = 0;
  int64_t shape[kMaxRank], x[kMaxRank], y[kMaxRank];

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  void push(int64_t n, int64_t x_stride, int64_t y_stride) {
    if (rank > 0 && x[rank - 1] == n * x_stride && y[rank - 1] == n * y_stride) {
      shape[rank - 1] *= n;
      x[rank - 1] = x_stride;
      y[rank - 1] = y_stride;
      return;
    }
    shape[rank] = n;
    x[rank] = x_stride;
    y[rank++] = y_stride;
  }
  void offsets(int64_t index, int64_t* at_x, int64_t* at_y) const {
    for (int i = rank - 1; i >= 0; --i) {
      const int64_t k = index % shape[i];
      index /= shape[i];
      *at_x += k * x[i];
      *at_y += k * y[i];
    }
  }
};

// One sum: `units` independent outputs (or blocks of up to kColumns of them), each the total of `rows` rows.
template <class T>
struct Sum {
  const ElementTable<T>& table = elements<T>();
  Axes kept, reduced;    // outer axes
  bool columns = false;  // the innermost axis is kept: a row adds to `width` outputs; else a row has one total
  int64_t extent = 1, x_stride = 1, y_stride = 0;  // of the innermost axis
  int64_t split = 1;  // pieces of the innermost axis: blocks of columns, or pieces of a long row

  int64_t piece() const { return columns ? kColumns : kPiece; }
  int64_t rows() const { return columns ? reduced.size() : reduced.size() * split; }
  int64_t units() const { return columns ? kept.size() * split : kept.size(); }
  int64_t width(int64_t k) const { return std::min(piece(), extent - k * piece()); }

  // total[0..width) = the sum of rows [begin, end) of x, which starts at the unit's origin
  void add(const T* x, int64_t n, int64_t begin, int64_t end, double* total) const {
    if (end - begin > kLeafRows) {
      const int64_t middle = begin + (end - begin) / 2;
      double other[kColumns];
      add(x, n, begin, middle, total);
      add(x, n, middle, end, other);
      for (int64_t i = 0; i < n; ++i) total[i] += other[i];
      return;
    }
    for (int64_t i = 0; i < n; ++i) total[i] = 0.0;
    for (int64_t row = begin; row < end;) row += columns ? add_columns(x, n, row, end, total) : add_row(x, row, total);
  }

  int64_t add_columns(const T* x, int64_t n, int64_t row, int64_t end, double* total) const {
    int64_t at = 0, unused = 0;
    reduced.offsets(row, &at, &unused);
    const int inner = reduced.rank - 1;
    const int64_t left = inner < 0 ? 1 : reduced.shape[inner] - row % reduced.shape[inner];
    const int64_t count = std::min(left, end - row), step = inner < 0 ? 0 : reduced.x[inner];
    if (x_stride == 1) {
      table.add_rows(x + at, count, step, n, total);
    } else {
      for (int64_t r = 0; r < count; ++r)
        for (int64_t i = 0; i < n; ++i) total[i] += static_cast<double>(x[at + r * step + i * x_stride]);
    }
    return count;
  }

  int64_t add_row(const T* x, int64_t row, double* total) const {
    int64_t at = 0, unused = 0;
    reduced.offsets(row / split, &at, &unused);
    const int64_t k = row % split, n = width(k);
    const T* run = x + at + k * kPiece * x_stride;
    if (x_stride == 1) {
      *total += table.sum(run, n);
      return 1;
    }
    T buffer[kStage];
    double row_total = 0.0;
    for (int64_t i = 0; i < n; i += kStage) {
      const int64_t count = std::min(kStage, n - i);
      row_total += table.sum(staged(run + i * x_stride, x_stride, count, buffer), count);
    }
    *total += row_total;
    return 1;
  }

  // Where unit u starts, how many outputs it has.
  int64_t place(int64_t u, int64_t* at_x, int64_t* at_y) const {
    const int64_t k = columns ? u % split : 0;
    *at_x = k * piece() * x_stride;
    *at_y = k * piece() * y_stride;
    kept.offsets(columns ? u / split : u, at_x, at_y);
    return columns ? width(k) : 1;
  }

  void run(const T* x, T* y) const {
    const int64_t all_rows = rows(), row_length = std::min(piece(), extent);
    const int64_t rows_per_chunk = std::max<int64_t>(1, kChunk / row_length);
    const int64_t chunks = (all_rows + rows_per_chunk - 1) / rows_per_chunk;
    if (chunks <= 1) {
      const int64_t per_task = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, all_rows * row_length));
      parallel_chunks(units(), per_task, [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
          double total[kColumns];
          int64_t at_x, at_y;
          const int64_t n = place(u, &at_x, &at_y);
          add(x + at_x, n, 0, all_rows, total);
          for (int64_t i = 0; i < n; ++i) y[at_y + i * y_stride] = static_cast<T>(total[i]);
        }
      });
      return;
    }
    const int64_t stride = columns ? std::min(kColumns, extent) : 1;
    std::vector<double> partial(static_cast<size_t>(units() * chunks * stride));
    parallel_for(units() * chunks, [&](int64_t task) {
      double total[kColumns];
      int64_t at_x, at_y;
      const int64_t n = place(task / chunks, &at_x, &at_y), begin = task % chunks * rows_per_chunk;
      add(x + at_x, n, begin, std::min(begin + rows_per_chunk, all_rows), total);
      std::copy(total, total + n, partial.data() + task * stride);
    });
    for (int64_t u = 0; u < units(); ++u) {
      int64_t at_x, at_y;
      const int64_t n = place(u, &at_x, &at_y);
      double* first = partial.data() + u * chunks * stride;
      for (int64_t step = 1; step < chunks; step *= 2)
        for (int64_t c = 0; c + step < chunks; c += 2 * step)
          for (int64_t i = 0; i < n; ++i) first[c * stride + i] += first[(c + step) * stride + i];
      for (int64_t i = 0; i < n; ++i) y[at_y + i * y_stride] = static_cast<T>(first[i]);
    }
  }
};

// Row by row through contiguous buffers where the columns are not.
template <class T, class F>
void rows_of(View<const T> x, View<T> y, F&& row) {
  const int64_t R = x.shape[0], C = x.shape[1];
  if (R == 0 || C == 0) return;
  parallel_chunks(R, std::max<int64_t>(1, kGrain / C), [&](int64_t begin, int64_t end) {
    const bool stage = x.stride[1] != 1 || y.stride[1] != 1;
    std::vector<T> buffer(static_cast<size_t>(stage ? 2 * C : 0));
    for (int64_t r = begin; r < end; ++r) {
      const T* input = staged(x.data + r * x.stride[0], x.stride[1], C, buffer.data());
      T* output = y.stride[1] == 1 ? y.data + r * y.stride[0] : buffer.data() + C;
      row(input, output, C);
      if (y.stride[1] != 1) unstage(output, y.data + r * y.stride[0], y.stride[1], C);
    }
  });
}

}  // namespace

template <class T>
void sum(View<const T> x, View<T> y) {
  if (x.size() == 0) return fill(y, 0.0);
  Axes axes;
  int order[kMaxRank];
  for (int i = 0; i < x.rank; ++i)
    if (x.shape[i] > 1) order[axes.rank++] = i;
  const int count = axes.rank;
  std::stable_sort(order, order + count, [&](int i, int j) { return std::abs(x.stride[i]) > std::abs(x.stride[j]); });
  Sum<T> s;
  if (count > 0) {
    const auto is_kept = [&](int axis) { return y.shape[axis] == x.shape[axis]; };
    s.columns = is_kept(order[count - 1]);
    Axes inner;  // the trailing axes of one kind, merged
    int outer = count;
    while (outer > 0 && is_kept(order[outer - 1]) == s.columns) --outer;
    for (int i = outer; i < count; ++i)
      inner.push(x.shape[order[i]], x.stride[order[i]], s.columns ? y.stride[order[i]] : 0);
    for (int i = 0; i < outer; ++i) {
      const int axis = order[i];
      is_kept(axis) ? s.kept.push(x.shape[axis], x.stride[axis], y.stride[axis])
                    : s.reduced.push(x.shape[axis], x.stride[axis], 0);
    }
    for (int i = 0; i + 1 < inner.rank; ++i)
      (s.columns ? s.kept : s.reduced).push(inner.shape[i], inner.x[i], inner.y[i]);
    s.extent = inner.shape[inner.rank - 1];
    s.x_stride = inner.x[inner.rank - 1];
    s.y_stride = inner.y[inner.rank - 1];
    s.split = (s.extent + s.piece() - 1) / s.piece();
  }
  s.run(x.data, y.data);
}

template <class T>
void softmax(View<const T> x, View<T> y) {
  const auto& table = elements<T>();
  rows_of(x, y, [&](const T* input, T* output, int64_t n) {
    const double total = table.exp_minus(input, output, n, table.maximum(input, n));
    table.divide_by(output, n, static_cast<T>(total));
  });
}

template <class T>
void log_softmax(View<const T> x, View<T> y) {
  const auto& table = elements<T>();
  rows_of(x, y, [&](const T* input, T* output, int64_t n) {
    const T shift = table.maximum(input, n);
    const double total = table.sum_exp_minus(input, n, shift);
    const double log_total = std::log(total);
    for (int64_t i = 0; i < n; ++i) output[i] = static_cast<T>(static_cast<double>(input[i] - shift) - log_total);
  });
}

#define GK_INSTANTIATE(T)                           \
  template void sum<T>(View<const T>, View<T>);     \
  template void softmax<T>(View<const T>, View<T>); \
  template void log_softmax<T>(View<const T>, View<T>);
GK_INSTANTIATE(float)
GK_INSTANTIATE(double)

}  // namespace gk::cpu
