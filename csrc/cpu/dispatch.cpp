// CPUID and XCR0 probe, and the choice made from it.
#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "tiles.hpp"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#define GK_X86 1
#endif

namespace gk::cpu {
namespace {

constexpr int kIsas = 4;
const char* const kNames[kIsas] = {"scalar", "avx2", "avx512", "amx"};

#ifdef GK_X86
bool runs(Isa isa) {
  if (isa == Isa::scalar) return true;
  if (isa == Isa::amx) return runs(Isa::avx512) && why_no_tiles().empty();
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!fma || !f16c) return false;
  const unsigned long long xcr0 = enabled_states();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool avx2 = (b & bit_AVX2) && (xcr0 & 0x6) == 0x6;
  if (isa == Isa::avx2) return avx2;
  const bool avx512 = (b & bit_AVX512F) && (b & bit_AVX512DQ) && (b & bit_AVX512BW) && (b & bit_AVX512VL);
  return avx2 && avx512 && (xcr0 & 0xe6) == 0xe6;
}
#else
bool runs(Isa isa) { return isa == Isa::scalar; }
#endif

Isa best() {
  if (const char* name = std::getenv("GANKERNELS_ISA")) {
    for (int i = 0; i < kIsas; ++i)
      if (std::string(name) == kNames[i] && runs(static_cast<Isa>(i))) return static_cast<Isa>(i);
  }
  if (!tiles_are_emulated() && runs(Isa::amx)) return Isa::amx;
  if (runs(Isa::avx512)) return Isa::avx512;
  if (runs(Isa::avx2)) return Isa::avx2;
  return Isa::scalar;
}

std::atomic<int>& chosen() {
  static std::atomic<int> value{static_cast<int>(best())};
  return value;
}

}  // namespace

#ifdef GK_X86
unsigned long long enabled_states() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<unsigned long long>(high) << 32) | low;
}

bool has_bf16_instructions() {
  unsigned a, b, c, d;
  return runs(Isa::avx512) && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1u);
}
#else
unsigned long long enabled_states() { return 0; }
bool has_bf16_instructions() { return false; }
#endif

Isa isa() { return static_cast<Isa>(chosen().load(std::memory_order_relaxed)); }

std::string isa_name() { return kNames[static_cast<int>(isa())]; }

std::vector<std::string> isa_compiled() {
#ifdef GK_X86
#ifdef GK_AMX
  return {"scalar", "avx2", "avx512", "amx"};
#else
  return {"scalar", "avx2", "avx512"};
#endif
#else
  return {"scalar"};
#endif
}

std::vector<std::string> isa_present() {
  std::vector<std::string> names;
  for (const auto& name : isa_compiled())
    for (int i = 0; i < kIsas; ++i)
      if (name == kNames[i] && runs(static_cast<Isa>(i))) names.push_back(name);
  return names;
}

void set_isa(const std::string& name) {
  for (int i = 0; i < kIsas; ++i)
    if (name == kNames[i] && runs(static_cast<Isa>(i))) {
      chosen().store(i);
      return;
    }
  throw std::invalid_argument("set_isa: '" + name + "' is not an instruction set this processor can run");
}

}  // namespace gk::cpu
