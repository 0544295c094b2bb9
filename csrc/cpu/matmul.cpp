// c = a b by packed panels (Goto and van de Geijn, ACM TOMS 34, 2008): a in blocks of tile rows, b in panels as wide as
// a tile, the inner extent in blocks that keep a panel in the cache. The tile is that of the direct convolution.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "bf16.hpp"
#include "conv_table.hpp"
#include "kernels.hpp"
#include "matmul_outer.hpp"
#include "parallel.hpp"
#include "prepared.hpp"
#include "scratch.hpp"
#include "tiles.hpp"

namespace gk::cpu {
namespace {

constexpr int64_t kInner = 256;                          // inner extent of a panel block: 48 KiB of b for 48 columns
constexpr int64_t kRows = 256, kFewRows = 64;            // rows of c per task, and at least where tasks are few:
constexpr int64_t kTasks = 4;                            // fewer than these
constexpr int64_t kStreamed = 64;                        // rows of a, at most, for which b is read in place, and then
constexpr int64_t kStreamRows = 32, kStreamPanels = 10;  // so many rows of b at a time, in runs of so many panels,
constexpr int64_t kRuns = 4;                             // fewer where there would not be so many runs
constexpr int64_t kDotRows = 48;                         // the same where the inner extent is in the lanes

struct RowBlock {
  int64_t first, rows;
  int outputs;
};

template <class T>
std::vector<RowBlock> cut_rows(const ConvTable<T>& table, int64_t rows) {
  std::vector<RowBlock> blocks;
  for (int64_t m = 0; m < rows;) {
    const int outputs = tile_outputs(table, rows - m);
    blocks.push_back({m, std::min<int64_t>(outputs, rows - m), outputs});
    m += outputs;
  }
  return blocks;
}

// Vectors of a panel, at most `widest`, so that panels of one width hold `vectors` with the least padding. Narrower
// ones load more numbers for a product.
int64_t least_padding(int64_t vectors, int64_t widest) {
  constexpr double kNarrower = 1.04;
  int64_t best = widest;
  double least = std::numeric_limits<double>::infinity(), price = 1.0;
  for (int64_t p = widest; p > 0; --p, price *= kNarrower) {
    const double cost = static_cast<double>((vectors + p - 1) / p * p) * price;
    if (cost < least) least = cost, best = p;
  }
  return best;
}

// block(K, outputs) of rows of a(M, K); missing rows are zero
template <class T>
void pack_rows(const T* a, int64_t row, int64_t column, int64_t inner, const RowBlock& block, T* dst) {
  if (row == 1) {  // columns lie in memory
    for (int64_t k = 0; k < inner; ++k, dst += block.outputs) {
      const T* src = a + block.first + k * column;
      for (int o = 0; o < block.outputs; ++o) dst[o] = o < block.rows ? src[o] : T(0);
    }
    return;
  }
  for (int o = 0; o < block.outputs; ++o) {
    const T* src = a + (block.first + o) * row;
    T* to = dst + o;
    if (o < block.rows)
      for (int64_t k = 0; k < inner; ++k) to[k * block.outputs] = src[k * column];
    else
      for (int64_t k = 0; k < inner; ++k) to[k * block.outputs] = T(0);
  }
}

// panel(inner, width) of b(K, N) from its element (0, 0); columns beyond `columns` are zero
template <class T>
void pack_panel(const ConvTable<T>& table, const T* b, int64_t row, int64_t column, int64_t inner, int64_t columns,
                int64_t width, T* dst) {
  if (column != 1 && row == 1) {
    const int L = table.lanes;
    std::vector<T> zeros(inner, T(0));
    std::vector<const T*> rows(L);
    for (int64_t n = 0; n < width; n += L) {
      for (int l = 0; l < L; ++l) rows[l] = n + l < columns ? b + (n + l) * column : zeros.data();
      table.interleave(rows.data(), inner, dst + n, width);
    }
    return;
  }
  for (int64_t k = 0; k < inner; ++k, b += row, dst += width) {
    for (int64_t n = 0; n < columns; ++n) dst[n] = b[n * column];
    std::fill(dst + columns, dst + width, T(0));
  }
}

// (steps, width) pairs of the first and the second, the third and the fourth of `rows` rows of numbers; the room of a
// missing last one is filled.
void pair_rows(float* numbers, int64_t rows, int64_t steps, int64_t width, Bf16Pair* dst) {
  if (rows < 2 * steps) std::fill_n(numbers + rows * width, width, 0.0f);
  for (int64_t k = 0; k < steps; ++k)
    bf16_table()->merge(numbers + 2 * k * width, numbers + (2 * k + 1) * width, width, dst + k * width);
}

// Rows of pairs along K, dst(count, stride), of `count` rows of a(M, K); the number after the last one is zero.
void pack_pairs(const float* a, int64_t row, int64_t column, int64_t K, int64_t count, int64_t stride, Bf16Pair* dst) {
  const int64_t whole = K / 2, L = conv_table<float>().lanes;
  const bool turned = row == 1 && count == L;  // columns lie in memory
  Scratch<float> numbers(count * (K + 1));
  if (turned) {
    float* rows[64];
    for (int64_t r = 0; r < count; ++r) rows[r] = numbers.get() + r * (K + 1);
    conv_table<float>().deinterleave(a, column, K, rows);
  }
  for (int64_t r = 0; r < count; ++r, a += row, dst += stride) {
    float* copy = numbers.get() + r * (K + 1);
    for (int64_t k = 0; k < K && !turned && column != 1; ++k) copy[k] = a[k * column];
    const float* from = column == 1 && !turned ? a : copy;
    bf16_table()->narrow(from, whole, dst);
    if (K % 2 == 0) continue;
    const float last[2] = {from[K - 1], 0.0f};
    bf16_table()->narrow(last, 1, dst + whole);
  }
}

template <class T>
View<T> transposed(View<T> v) {
  std::swap(v.shape[1], v.shape[2]);
  std::swap(v.stride[1], v.stride[2]);
  return v;
}

// Panels of b, `width` columns each: numbers of T, or of pairs along the inner extent.
template <class T, class E>
struct Panels {
  static constexpr int64_t kNumbers = std::is_same_v<E, Bf16Pair> ? 2 : 1;  // of T in an E

  const View<const T> b;
  const int64_t width;

  int64_t count() const { return (b.shape[2] + width - 1) / width; }
  int64_t steps() const { return (b.shape[1] + kNumbers - 1) / kNumbers; }
  // In a copy of all panels (batch, panel, step, width).
  int64_t at(int64_t batch, int64_t panel, int64_t k) const {
    return ((batch * count() + panel) * steps() + k) * width;
  }

  // Where its step k begins in b.
  const T* place(int64_t batch, int64_t panel, int64_t k) const {
    return b.data + batch * b.stride[0] + kNumbers * k * b.stride[1] + panel * width * b.stride[2];
  }

  // dst(inner, width) <- steps [k, k + inner) of one panel
  void pack(int64_t batch, int64_t panel, int64_t k, int64_t inner, E* dst) const {
    const int64_t columns = std::min(width, b.shape[2] - panel * width);
    const int64_t some = std::min(kNumbers * inner, b.shape[1] - kNumbers * k);
    const T* from = place(batch, panel, k);
    if constexpr (kNumbers == 2) {
      Scratch<T> numbers(2 * inner * width);
      pack_panel(conv_table<T>(), from, b.stride[1], b.stride[2], some, columns, width, numbers.get());
      pair_rows(numbers.get(), some, inner, width, dst);
    } else {
      pack_panel(conv_table<T>(), from, b.stride[1], b.stride[2], some, columns, width, dst);
    }
  }

  // All of them where what is prepared of b is kept, else null.
  const E* kept() const {
    if (!Prepared<E>::stays(b.data)) return nullptr;
    const Prepared<E> all(b.data, b.shape[0] * count() * steps() * width, [&](E* dst) {
      parallel_for(b.shape[0] * count(), [&](int64_t i) {
        for (int64_t k = 0; k < steps(); k += kInner)
          pack(i / count(), i % count(), k, std::min(kInner, steps() - k), dst + at(i / count(), i % count(), k));
      });
    });
    return all.get();
  }
};

// A few columns of b, rows of a that lie in memory: dot products, the inner extent in the lanes, as many rows of a at a
// time as a tile has taps. What is left of the inner extent after whole vectors is added number by number.
template <class T>
void few_columns(View<const T> a, View<const T> b, View<T> c) {
  const ConvTable<T>& table = conv_table<T>();
  const int64_t M = c.shape[1], N = c.shape[2], K = a.shape[2], L = table.lanes, whole = K / L * L;
  const int outputs = tile_outputs(table, N);
  const int64_t rows_at_once = table.max_positions[outputs], tasks = (M + kDotRows - 1) / kDotRows;
  Scratch<T> columns(c.shape[0] * whole * outputs);  // (batch, vector of the inner extent, column)
  parallel_for(c.shape[0] * outputs, [&](int64_t i) {
    const int64_t n = i % outputs;
    const T* from = b.data + i / outputs * b.stride[0] + n * b.stride[2];
    T* to = columns.get() + i / outputs * whole * outputs;
    for (int64_t k = 0; k < whole; ++k) to[(k / L * outputs + n) * L + k % L] = n < N ? from[k * b.stride[1]] : T(0);
  });
  parallel_for(c.shape[0] * tasks, [&](int64_t i) {
    const int64_t batch = i / tasks, last = std::min(M, i % tasks * kDotRows + kDotRows);
    const T* right = columns.get() + batch * whole * outputs;
    Scratch<T> lanes(rows_at_once * outputs * L), sums(rows_at_once * outputs + L);
    std::vector<TapOffset> taps(rows_at_once);
    for (int64_t r = 0; r < rows_at_once; ++r) taps[r] = {r * a.stride[1], r * outputs * L};
    for (int64_t m = i % tasks * kDotRows; m < last; m += rows_at_once) {
      const int64_t some = std::min(rows_at_once, last - m);
      const T* left = a.data + batch * a.stride[0] + m * a.stride[1];
      std::fill_n(lanes.get(), some * outputs * L, T(0));
      std::fill_n(sums.get(), some * outputs, T(0));
      table.weight_tile[outputs][some](left, 0, right, 0, 1, whole / L, taps.data(), lanes.get());
      table.add_lanes(lanes.get(), some * outputs, sums.get());
      for (int64_t r = 0; r < some; ++r)
        for (int64_t n = 0; n < N; ++n) {
          T sum = sums.get()[r * outputs + n];
          for (int64_t k = whole; k < K; ++k)
            sum += left[r * a.stride[1] + k] * b.data[batch * b.stride[0] + k * b.stride[1] + n * b.stride[2]];
          c.data[batch * c.stride[0] + (m + r) * c.stride[1] + n * c.stride[2]] = sum;
        }
    }
  });
}

// A few rows of a, given in blocks, and rows of b that lie in memory: b, which is most of what moves, is read in place
// and in long runs (panel by panel where it was packed and kept), while the sums stay in the first cache.
template <class T>
void few_rows(View<const T> a, View<const T> b, View<T> c, const std::vector<RowBlock>& blocks, int64_t positions) {
  const ConvTable<T>& table = conv_table<T>();
  const int64_t M = c.shape[1], N = c.shape[2], K = a.shape[2], width = positions * table.lanes;
  const Panels<T, T> panels{b, width};
  const T* kept = panels.kept();
  const int64_t rows = blocks.back().first + blocks.back().outputs;
  const int64_t at_once = kept ? 1 : std::clamp<int64_t>(c.shape[0] * panels.count() / kRuns, 1, kStreamPanels);
  const int64_t run = at_once * width;
  const int64_t runs = (N + run - 1) / run, inner_block = kept ? kInner : kStreamRows;
  const TapOffset only{0, 0};
  Scratch<T> packed(c.shape[0] * rows * K);
  const int64_t block_count = static_cast<int64_t>(blocks.size());
  parallel_for(c.shape[0] * block_count, [&](int64_t i) {
    const RowBlock& block = blocks[i % block_count];
    const int64_t n = i / block_count;
    pack_rows(a.data + n * a.stride[0], a.stride[1], a.stride[2], K, block,
              packed.get() + (n * rows + block.first) * K);
  });
  parallel_for(c.shape[0] * runs, [&](int64_t i) {
    const int64_t batch = i / runs, first = i % runs * run, columns = std::min(run, N - first);
    Scratch<T> sums(rows * run), panel(inner_block * width);
    for (int64_t k = 0; k < K; k += inner_block) {
      const int64_t inner = std::min(inner_block, K - k);
      for (int64_t n = 0; n < columns; n += width) {
        const int64_t p = (first + n) / width;
        const bool in_place = !kept && columns - n >= width;
        const T* right = panel.get();
        if (kept)
          right = kept + panels.at(batch, p, k);
        else if (in_place)
          right = panels.place(batch, p, k);
        else
          panels.pack(batch, p, k, inner, panel.get());
        for (const RowBlock& block : blocks)
          table.tile[block.outputs][positions](right, in_place ? b.stride[1] : width,
                                               packed.get() + (batch * rows + block.first) * K + k * block.outputs,
                                               block.outputs, inner, &only, 1, sums.get() + block.first * run + n, run,
                                               table.lanes, k > 0);
      }
    }
    for (int64_t m = 0; m < M; ++m) {
      T* to = c.data + batch * c.stride[0] + m * c.stride[1] + first * c.stride[2];
      for (int64_t n = 0; n < columns; ++n) to[n * c.stride[2]] = sums.get()[m * run + n];
    }
  });
}

// c[first + m][column + n] = from[m][n], m < rows, n < columns
template <class T>
void store(const T* from, int64_t width, int64_t rows, int64_t columns, const View<T>& c, int64_t batch, int64_t first,
           int64_t column) {
  for (int64_t m = 0; m < rows; ++m, from += width) {
    T* to = c.data + batch * c.stride[0] + (first + m) * c.stride[1] + column * c.stride[2];
    if (c.stride[2] == 1)
      std::copy_n(from, columns, to);
    else
      for (int64_t n = 0; n < columns; ++n) to[n * c.stride[2]] = from[n];
  }
}

template <class T, class E>
auto tiles(int outputs) {
  if constexpr (std::is_same_v<E, Bf16Pair>)
    return bf16_table()->tile[outputs];
  else
    return conv_table<T>().tile[outputs];
}

// E is what packed blocks hold: numbers of T, or pairs along the inner extent rounded to bfloat16.
template <class T, class E>
void product(View<const T> a, View<const T> b, View<T> c) {
  constexpr bool kPairs = std::is_same_v<E, Bf16Pair>;
  const int64_t B = c.shape[0], M = c.shape[1], N = c.shape[2], K = a.shape[2];
  if (c.size() == 0) return;
  const ConvTable<T>& table = conv_table<T>();
  const int L = table.lanes;
  if (N <= table.wide_outputs && a.stride[2] == 1 && K >= L) return few_columns<T>(a, b, c);
  if (M <= table.wide_outputs && b.stride[1] == 1 && K >= L)
    return few_columns<T>(transposed(b), transposed(a), transposed(c));
  if constexpr (!kPairs)
    if (is_outer<T>(a, b, c)) return matmul_outer<T>(a, b, c);
  if (N < M && N < L) return product<T, E>(transposed(b), transposed(a), transposed(c));  // vectors run along N

  const std::vector<RowBlock> blocks = cut_rows(table, M);
  int64_t positions = (N + L - 1) / L;
  if (kPairs) positions = std::min<int64_t>(positions, Bf16Table::kMaxVectors);
  for (const RowBlock& block : blocks) positions = std::min<int64_t>(positions, table.max_positions[block.outputs]);
  if constexpr (!kPairs) {
    if (M <= kStreamed && b.stride[2] == 1 && K > kStreamRows) return few_rows<T>(a, b, c, blocks, positions);
  }
  positions = least_padding((N + L - 1) / L, positions);
  const int64_t width = positions * L;
  const Panels<T, E> panels{b, width};
  const E* kept = panels.kept();
  const int64_t block_count = static_cast<int64_t>(blocks.size());
  const int64_t padded_rows = blocks.back().first + blocks.back().outputs;
  const int64_t steps = panels.steps();
  const int64_t inner_block = std::min(steps, kInner);
  // With one block of rows a panel is used once: full panels of rows that lie in memory as wanted are not packed.
  const bool unpacked = !kPairs && !kept && blocks.size() == 1 && b.stride[2] == 1;
  const TapOffset only{0, 0};  // the inner extent plays the input channels
  const Prepared<E> packed_a(a.data, B * padded_rows * steps, [&](E* rows) {
    parallel_for(B * block_count, [&](int64_t i) {
      const RowBlock& block = blocks[i % block_count];
      const int64_t n = i / block_count;
      const T* from = a.data + n * a.stride[0];
      E* to = rows + (n * padded_rows + block.first) * steps;
      if constexpr (kPairs) {
        Scratch<T> numbers(2 * steps * block.outputs);
        pack_rows(from, a.stride[1], a.stride[2], K, block, numbers.get());
        pair_rows(numbers.get(), K, steps, block.outputs, to);
      } else {
        pack_rows(from, a.stride[1], a.stride[2], K, block, to);
      }
    });
  });

  const int64_t task_rows = std::clamp(B * panels.count() * M / kTasks, kFewRows, kRows);
  const int64_t blocks_per_task = std::max<int64_t>(1, task_rows / blocks[0].outputs);
  const int64_t row_tasks = (block_count + blocks_per_task - 1) / blocks_per_task;
  parallel_for(B * panels.count() * row_tasks, [&](int64_t i) {
    const int64_t first_block = i % row_tasks * blocks_per_task;
    const int64_t last_block = std::min(block_count, first_block + blocks_per_task);
    const int64_t p = i / row_tasks % panels.count(), batch = i / (row_tasks * panels.count());
    const int64_t n0 = p * width, columns = std::min(width, N - n0);
    const int64_t first_row = blocks[first_block].first;
    const int64_t rows = blocks[last_block - 1].first + blocks[last_block - 1].outputs - first_row;
    Scratch<E> panel(inner_block * width);
    Scratch<T> result(rows * width);
    for (int64_t k0 = 0; k0 < steps || k0 == 0; k0 += inner_block + (steps == 0)) {
      const int64_t inner = std::min(inner_block, steps - k0);
      const bool in_place = unpacked && columns == width;
      const E* right = kept ? kept + panels.at(batch, p, k0) : panel.get();
      if constexpr (!kPairs)
        if (in_place) right = panels.place(batch, p, k0);
      if (!kept && !in_place) panels.pack(batch, p, k0, inner, panel.get());
      for (int64_t m = first_block; m < last_block; ++m) {
        const RowBlock& block = blocks[m];
        const auto tile = tiles<T, E>(block.outputs)[positions];
        tile(right, in_place ? b.stride[1] : width,
             packed_a.get() + (batch * padded_rows + block.first) * steps + k0 * block.outputs, block.outputs, inner,
             &only, 1, result.get() + (block.first - first_row) * width, width, table.lanes, k0 > 0);
      }
    }
    store(result.get(), width, std::min(rows, M - first_row), columns, c, batch, first_row, n0);
  });
}

// Products of pairs by tiles. Panels are as for vectors; rows of a stay rows.
void tile_product(const TileTable& tiles, View<const float> a, View<const float> b, View<float> c) {
  constexpr int64_t kTileRows = TileTable::kRows, kMost = TileTable::kMaxGroups * kTileRows;
  const int64_t B = c.shape[0], M = c.shape[1], N = c.shape[2], K = a.shape[2];
  const int64_t vectors = std::min<int64_t>(ceil_div(N, TileTable::kColumns), TileTable::kMaxVectors);
  const int64_t width = vectors * TileTable::kColumns;
  const Panels<float, Bf16Pair> panels{b, width};
  const Bf16Pair* kept = panels.kept();
  const int64_t steps = panels.steps(), inner_block = std::min(steps, kInner), groups = ceil_div(M, kTileRows);
  // Rows begin with a cache line and are not a power of two apart, which would crowd them into a few sets.
  const int64_t row = (ceil_div(steps, TileTable::kPairs) | 1) * TileTable::kPairs;
  const Prepared<Bf16Pair> left(a.data, B * groups * kTileRows * row, [&](Bf16Pair* rows) {
    parallel_for(B * groups, [&](int64_t i) {
      const int64_t m = i % groups * kTileRows, count = std::min(kTileRows, M - m);
      Bf16Pair* to = rows + i * kTileRows * row;
      pack_pairs(a.data + i / groups * a.stride[0] + m * a.stride[1], a.stride[1], a.stride[2], K, count, row, to);
      std::fill_n(to + count * row, (kTileRows - count) * row, Bf16Pair(0));
    });
  });
  int64_t at[kMost], to[kMost];
  for (int64_t r = 0; r < kMost; ++r) at[r] = r * row, to[r] = r * width;
  const TapOffset only{0, 0};

  const int64_t wanted_rows = std::clamp(B * panels.count() * M / kTasks, kFewRows, kRows);
  const int64_t task_rows = ceil_div(wanted_rows, kMost) * kMost, row_tasks = ceil_div(M, task_rows);
  parallel_for(B * panels.count() * row_tasks, [&](int64_t i) {
    const int64_t first = i % row_tasks * task_rows, rows = std::min(task_rows, M - first);
    const int64_t p = i / row_tasks % panels.count(), batch = i / (row_tasks * panels.count());
    Scratch<Bf16Pair> panel(inner_block * width);
    Scratch<float> result(ceil_div(rows, kTileRows) * kTileRows * width);
    TileScope scope;
    for (int64_t k = 0; k < steps; k += inner_block) {
      const int64_t inner = std::min(inner_block, steps - k);
      const Bf16Pair* right = kept ? kept + panels.at(batch, p, k) : panel.get();
      if (!kept) panels.pack(batch, p, k, inner, panel.get());
      scope.shape_for(tiles, inner);
      for (int64_t m = 0; m < rows; m += kMost)
        tiles.tile[ceil_div(std::min(kMost, rows - m), kTileRows)][vectors](
            left.get() + (batch * groups * kTileRows + first + m) * row + k, at, &only, 1, inner, right, width,
            result.get() + m * width, to, k > 0);
    }
    store(result.get(), width, rows, std::min(width, N - p * width), c, batch, first, p * width);
  });
}

}  // namespace

template <class T>
void matmul(View<const T> a, View<const T> b, View<T> c, MatmulPrecision p) {
  const Inline small(c.size() * a.shape[2] <= kSmallWork);
  if constexpr (std::is_same_v<T, float>) {
    if (p == MatmulPrecision::bf16) {
      // A product of few rows or columns waits for memory: it is computed as float32 ones are.
      if (bf16_table() && std::min(c.shape[1], c.shape[2]) > Bf16Table::kMaxOutputs) {
        // Tiles that would be mostly padding cost what full ones do.
        if (tile_table() && a.shape[2] >= 2 * TileTable::kPairs) return tile_product(*tile_table(), a, b, c);
        return product<T, Bf16Pair>(a, b, c);
      }
      const Bf16Copy left(a), right(b);
      return product<T, T>(left.view(), right.view(), c);
    }
  }
  product<T, T>(a, b, c);
}

template void matmul<float>(View<const float>, View<const float>, View<float>, MatmulPrecision);
template void matmul<double>(View<const double>, View<const double>, View<double>, MatmulPrecision);

}  // namespace gk::cpu
