// Which instruction set runs. The probe asks the processor (CPUID) and the operating system (XCR0); GANKERNELS_ISA
// overrides.
#pragma once

#include <string>
#include <vector>

namespace gk::cpu {

// amx: the loops of avx512, and tiles for products of bfloat16 pairs.
enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2, amx = 3 };

Isa isa();
std::string isa_name();
std::vector<std::string> isa_present();
std::vector<std::string> isa_compiled();
void set_isa(const std::string& name);

// For probes of single instructions: the states that the operating system saves (XCR0), 0 where none are told; and
// whether the processor has AVX512-BF16 where it and the operating system have AVX-512.
unsigned long long enabled_states();
bool has_bf16_instructions();

}  // namespace gk::cpu
