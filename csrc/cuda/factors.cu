#include "factors.cuh"

namespace gk::cuda {
namespace {
thread_local const void* t_there = nullptr;
thread_local bool t_taken = false;
thread_local void* t_wanted = nullptr;
}  // namespace

FactorsAt::FactorsAt(const std::uint64_t* words) {
  t_there = words;
  t_taken = false;
}
FactorsAt::~FactorsAt() { t_there = nullptr; }
bool FactorsAt::taken() { return t_taken; }

FactorsTo::FactorsTo(std::uint64_t* words) { t_wanted = words; }
FactorsTo::~FactorsTo() { t_wanted = nullptr; }

const void* factors_there() {
  t_taken = true;
  return t_there;
}
void* factors_wanted() { return t_wanted; }

}  // namespace gk::cuda
