#include "factors.cuh"

namespace gk::cuda {
namespace {
thread_local FactorPlaces t_there;
thread_local bool t_taken = false;
thread_local ToldFactors* t_wanted = nullptr;
}  // namespace

FactorsAt::FactorsAt(const std::uint64_t* told, std::uint64_t* folded) {
  t_there = {told, folded};
  t_taken = false;
}
FactorsAt::~FactorsAt() { t_there = {}; }
bool FactorsAt::taken() { return t_taken; }

FactorsTo::FactorsTo(ToldFactors* told) { t_wanted = told; }
FactorsTo::~FactorsTo() { t_wanted = nullptr; }

FactorPlaces factors_there() {
  t_taken = true;
  return t_there;
}
ToldFactors* factors_wanted() { return t_wanted; }

}  // namespace gk::cuda
