// Calls of kernels can be recorded while they run, or instead, to be run again without Python: same arrays, same
// numbers, random numbers from later counters. Arrays made meanwhile live in memory that belongs to the recording.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "convert.hpp"

namespace gk {

// An operand and the array that owns its memory (borrowed during the call).
template <class T>
struct Held {
  View<T> view;
  PyObject* array = nullptr;
};

template <class A>
struct hold {
  using type = std::remove_cv_t<std::remove_reference_t<A>>;
};
template <class T>
struct hold<View<T>> {
  using type = Held<T>;
};
template <class A>
using hold_t = typename hold<A>::type;

template <class T>
const View<T>& plain(const Held<T>& held) {
  return held.view;
}
template <class T>
const T& plain(const T& number) {
  return number;
}

// By how much the counters of a seed have moved on since the recording.
using Shifts = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

class Recording {
 public:
  struct Call {
    std::string kernel, arrays, numbers;  // all equal: the same work on the same arrays
    std::function<void(const Shifts&)> run;
    std::optional<std::uint64_t> seed;  // of the random numbers that it draws
  };

  // deferred: calls are noted and not run; owning: arrays that were made meanwhile stay, too.
  explicit Recording(bool deferred = false, bool owning = false) : deferred_(deferred), owning_(owning) {}

  // The recording that calls of this thread are added to, if any.
  static Recording*& active() {
    static thread_local Recording* recording = nullptr;
    return recording;
  }

  bool deferred() const { return deferred_; }
  const std::string& problem() const { return problem_; }
  const std::vector<Call>& calls() const { return calls_; }
  // The seeds that calls draw from.
  std::vector<std::uint64_t> seeds() const {
    std::vector<std::uint64_t> found;
    for (const auto& [seed, counter] : first_counter_) found.push_back(seed);
    return found;
  }

  // Blocks that were there before end where the new one begins.
  void note_block(const void* data, std::size_t capacity) {
    const char* start = static_cast<const char*>(data);
    blocks_.erase(blocks_.lower_bound(start), blocks_.lower_bound(start + capacity));
    blocks_[start] = {capacity, next_block_++};
  }

  template <class... A>
  void add(const char* kernel, void (*f)(A...), const hold_t<A>&... a) {
    using Values = std::tuple<std::remove_cv_t<std::remove_reference_t<A>>...>;
    constexpr std::size_t n = sizeof...(A);
    constexpr bool draws = ends_with_counter<Values>();
    Call call{kernel, {}, {}, nullptr, std::nullopt};
    const Values values(plain(a)...);
    (describe(call, a), ...);
    (note_written(a), ...);
    if constexpr (draws) {  // counters are compared from the first one of their seed on
      const std::uint64_t seed = std::get<n - 2>(values), counter = std::get<n - 1>(values);
      const std::uint64_t first = first_counter_.emplace(seed, counter).first->second;
      call.numbers.resize(call.numbers.size() - sizeof counter);
      append(call.numbers, counter - first);
      call.seed = seed;
      call.run = [f, values, seed](const Shifts& shifts) {
        Values moved = values;
        for (const auto& [of, by] : shifts)
          if (of == seed) std::get<n - 1>(moved) += by;
        std::apply(f, moved);
      };
    } else {
      call.run = [f, values](const Shifts&) { std::apply(f, values); };
    }
    calls_.push_back(std::move(call));
  }

  // Was what lies there computed by recorded calls?
  bool computed(const void* data) const {
    const Place place = find(static_cast<const char*>(data));
    return place.block >= 0 && written_.count(place.block) != 0;
  }

  // Why the second recording is not a repetition of this one, or "".
  std::string difference(const Recording& second) const {
    for (const Recording* recording : {this, &second})
      if (!recording->problem_.empty()) return recording->problem_;
    const auto &a = calls_, &b = second.calls_;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (a[i].kernel != b[i].kernel)
        return "call " + std::to_string(i) + " was " + a[i].kernel + ", then " + b[i].kernel;
      if (a[i].arrays != b[i].arrays || a[i].numbers != b[i].numbers)
        return "call " + std::to_string(i) + ", " + a[i].kernel + ", had other arrays or numbers the second time";
    }
    if (a.size() != b.size()) return std::to_string(a.size()) + " kernels ran, then " + std::to_string(b.size());
    return "";
  }

  void run(std::size_t begin, std::size_t end, const Shifts& shifts) const {
    for (std::size_t i = begin; i < end; ++i) calls_[i].run(shifts);
  }

 private:
  struct Place {
    std::int64_t block, offset;  // block -1: memory of others, the offset is its address
  };

  template <class Values>
  static constexpr bool ends_with_counter() {
    constexpr std::size_t n = std::tuple_size_v<Values>;
    if constexpr (n < 2)
      return false;
    else
      return std::is_same_v<std::tuple_element_t<n - 1, Values>, std::uint64_t> &&
             std::is_same_v<std::tuple_element_t<n - 2, Values>, std::uint64_t>;
  }

  Place find(const char* data) const {
    auto after = blocks_.upper_bound(data);
    if (after != blocks_.begin()) {
      const auto& [start, block] = *std::prev(after);
      if (data < start + block.first) return {block.second, data - start};
    }
    return {-1, static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data))};
  }

  template <class T>
  void describe(Call& call, const Held<T>& held) {
    std::string& s = call.arrays;
    append(s, held.view.rank);
    for (int i = 0; i < held.view.rank; ++i) {
      append(s, held.view.shape[i]);
      append(s, held.view.stride[i]);
    }
    if (held.view.size() == 0) return;
    const Place place = find(reinterpret_cast<const char*>(held.view.data));
    append(s, place);
    if (place.block < 0 || owning_) owners_.push_back(py::reinterpret_borrow<py::object>(held.array));
    if (place.block >= 0 && std::is_const_v<T> && written_.count(place.block) == 0 && problem_.empty())
      problem_ = call.kernel + " reads an array that was not filled by a kernel";
  }
  template <class T>
  void describe(Call& call, const T& number) {
    append(call.numbers, number);
  }

  template <class T>
  void note_written(const Held<T>& held) {
    const Place place = find(reinterpret_cast<const char*>(held.view.data));
    if (!std::is_const_v<T> && place.block >= 0) written_.insert(place.block);
  }
  template <class T>
  void note_written(const T&) {}

  template <class T>
  static void append(std::string& s, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    s.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  bool deferred_, owning_;
  std::map<const char*, std::pair<std::size_t, std::int64_t>> blocks_;  // by address: capacity, number
  std::int64_t next_block_ = 0;
  std::set<std::int64_t> written_;
  std::vector<py::object> owners_;
  std::vector<Call> calls_;
  std::map<std::uint64_t, std::uint64_t> first_counter_;  // by seed
  std::string problem_;
};

// Registers a kernel: it runs with the interpreter lock released, and is noted if this thread records, or noted only.
template <class... A>
void bind_kernel(py::module_& m, const char* name, void (*f)(A...)) {
  m.def(name, [name, f](const hold_t<A>&... a) {
    if (Recording* recording = Recording::active()) {
      recording->add(name, f, a...);
      if (recording->deferred()) return;
    }
    py::gil_scoped_release release;
    f(plain(a)...);
  });
}

// Registers a module's kind of recording; the module adds how it is made and run.
template <class R>
py::class_<R> bind_recording(py::module_& m) {
  return py::class_<R>(m, "Recording", "kernel calls of this thread between start() and stop()")
      .def("start", [](R& r) { Recording::active() = &r; })
      .def("stop", [](R&) { Recording::active() = nullptr; })
      .def("__len__", [](const R& r) { return r.calls().size(); })
      .def("kernels",
           [](const R& r) {
             std::vector<std::string> names;
             for (const auto& call : r.calls()) names.push_back(call.kernel);
             return names;
           })
      .def("difference", [](const R& first, const R& second) { return first.difference(second); });
}

// The module says whose kernels: `namespace kernels = cpu;`
#define GK_BIND(module, name)                        \
  bind_kernel(module, #name, &kernels::name<float>); \
  bind_kernel(module, #name, &kernels::name<double>)
// The same for indices and masks, after the floats: overloads are tried in this order.
#define GK_BIND_INTEGERS(module, name)                 \
  bind_kernel(module, #name, &kernels::name<int64_t>); \
  bind_kernel(module, #name, &kernels::name<bool>)
#define GK_BIND_FROM(module, name, S)                     \
  bind_kernel(module, #name, &kernels::name<S, float>);   \
  bind_kernel(module, #name, &kernels::name<S, double>);  \
  bind_kernel(module, #name, &kernels::name<S, int64_t>); \
  bind_kernel(module, #name, &kernels::name<S, bool>)

}  // namespace gk

namespace pybind11::detail {
template <class T>
struct type_caster<gk::Held<T>> {
  PYBIND11_TYPE_CASTER(gk::Held<T>, const_name("array"));

  bool load(handle source, bool convert) {
    type_caster<gk::View<T>> view;
    if (!view.load(source, convert)) return false;
    value.view = static_cast<gk::View<T>&>(view);
    value.array = source.ptr();
    return true;
  }
};
}  // namespace pybind11::detail
