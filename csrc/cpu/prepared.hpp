// Weights as kernels want them: packed into tiles or merged. They are prepared at every call, in scratch memory; where
// the caller promised that the weights stay as they are, at the first call, and kept.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <typeindex>
#include <typeinfo>
#include <vector>

#include "dispatch.hpp"
#include "memory.hpp"
#include "scratch.hpp"

namespace gk::cpu {

// Arrays that stay as they are, and what kernels prepared of them, for every one of a list of calls. Each call is made
// with the same arguments every time, by one thread at a time.
class Constants {
 public:
  // pool: the memory of what is kept.
  explicit Constants(std::shared_ptr<MemoryPool> pool) : pool_(std::move(pool)) {}
  ~Constants();
  Constants(const Constants&) = delete;
  Constants& operator=(const Constants&) = delete;

  void add(const void* data, std::size_t bytes);

 private:
  friend class UsingConstants;
  template <class E>
  friend class Prepared;

  struct Kept {
    std::type_index filled_by;  // which is how it is laid out, together with the instruction set
    Isa isa;
    std::size_t bytes;
    void* data;
    std::size_t capacity;
  };

  bool hold(const void* data) const;
  // The next one that the current call asks for.
  void* next(std::type_index filled_by, std::size_t bytes, const std::function<void(void*)>& fill);
  void drop(std::vector<Kept>& kept, std::size_t first);

  static Constants*& current();  // of this thread

  std::shared_ptr<MemoryPool> pool_;
  std::map<const char*, std::size_t> arrays_;  // by address: bytes
  std::vector<std::vector<Kept>> calls_;       // in the order in which a call asks for them
  std::vector<Kept>* call_ = nullptr;          // the one that is made
  std::size_t asked_ = 0;                      // by it so far
};

// While it lives, this thread makes one call of the list.
class UsingConstants {
 public:
  UsingConstants(Constants& constants, std::size_t call);
  ~UsingConstants();
  UsingConstants(const UsingConstants&) = delete;
  UsingConstants& operator=(const UsingConstants&) = delete;
};

// `count` numbers that fill(E*) computes of the array that begins at `source`. Made outside of parallel loops, so that
// a call always asks for the same in the same order.
template <class E>
class Prepared {
 public:
  template <class Fill>
  Prepared(const void* source, std::int64_t count, const Fill& fill) {
    if (stays(source)) {
      const auto filled = [&](void* data) { fill(static_cast<E*>(data)); };
      data_ = static_cast<E*>(
          Constants::current()->next(typeid(Fill), static_cast<std::size_t>(count) * sizeof(E), filled));
    } else {
      scratch_.emplace(count);
      fill(scratch_->get());
      data_ = scratch_->get();
    }
  }

  // Is what is prepared of this array kept?
  static bool stays(const void* source) { return Constants::current() && Constants::current()->hold(source); }

  const E* get() const { return data_; }

 private:
  std::optional<Scratch<E>> scratch_;
  const E* data_;
};

}  // namespace gk::cpu
