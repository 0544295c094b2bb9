// The constants of Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, as easy as 1, 2, 3; SC'11) and
// how its words become numbers, for every backend; gankernels/backends/philox.py has the same. No function: the per-ISA
// files include this header.
#pragma once

#include <cstdint>

namespace gk {

constexpr int kPhiloxRounds = 10;
constexpr std::uint32_t kPhiloxA = 0xD2511F53u, kPhiloxB = 0xCD9E8D57u, kWeylA = 0x9E3779B9u, kWeylB = 0xBB67AE85u;
// A uniform number is the upper 24 bits of a word (float), or the upper 53 of two (double, the second one high), in
// these units.
constexpr float kUniform24 = 5.9604644775390625e-8f;
constexpr double kUniform53 = 1.1102230246251565404e-16;

}  // namespace gk
