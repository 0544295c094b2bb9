// Which instruction set runs. The probe asks the processor (CPUID) and the operating system (XCR0); GANKERNELS_ISA
// overrides.
#pragma once

#include <string>
#include <vector>

namespace gk::cpu {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

Isa isa();
std::string isa_name();
std::vector<std::string> isa_present();
std::vector<std::string> isa_compiled();
void set_isa(const std::string& name);

}  // namespace gk::cpu
