// What is kept of constant weights, call by call. Another instruction set or path lays it out in another way: then the
// call's list is prepared anew from there on.
#include "prepared.hpp"

#include <algorithm>
#include <iterator>

namespace gk::cpu {

Constants*& Constants::current() {
  static thread_local Constants* constants = nullptr;
  return constants;
}

void Constants::add(const void* data, std::size_t bytes) {
  std::size_t& known = arrays_[static_cast<const char*>(data)];
  known = std::max(known, bytes);
}

Constants::~Constants() {
  for (std::vector<Kept>& kept : calls_) drop(kept, 0);
}

void Constants::drop(std::vector<Kept>& kept, std::size_t first) {
  while (kept.size() > first) {
    pool_->release(kept.back().data, kept.back().capacity);
    kept.pop_back();
  }
}

bool Constants::hold(const void* data) const {
  const char* at = static_cast<const char*>(data);
  const auto after = arrays_.upper_bound(at);
  if (after != arrays_.begin() && at < std::prev(after)->first + std::prev(after)->second) return true;
  for (const Kept& kept : *call_)
    if (kept.data == data) return true;
  return false;
}

void* Constants::next(std::type_index filled_by, std::size_t bytes, const std::function<void(void*)>& fill) {
  std::vector<Kept>& kept = *call_;
  const std::size_t i = asked_++;
  if (i < kept.size() && kept[i].filled_by == filled_by && kept[i].isa == isa() && kept[i].bytes == bytes)
    return kept[i].data;
  drop(kept, i);
  kept.reserve(i + 1);
  Kept made{filled_by, isa(), bytes, nullptr, 0};
  made.data = pool_->acquire(bytes, &made.capacity);
  try {
    fill(made.data);
  } catch (...) {
    pool_->release(made.data, made.capacity);
    throw;
  }
  kept.push_back(made);
  return made.data;
}

UsingConstants::UsingConstants(Constants& constants, std::size_t call) {
  if (constants.calls_.size() <= call) constants.calls_.resize(call + 1);
  constants.call_ = &constants.calls_[call];
  constants.asked_ = 0;
  Constants::current() = &constants;
}

UsingConstants::~UsingConstants() { Constants::current() = nullptr; }

}  // namespace gk::cpu
