// How code outside this folder reaches the inner loops in it. Each family of loops (conv, pointwise, ...) declares a
// struct of function pointers in a header of its own; its .inl file, compiled once per instruction set inside that
// set's namespace, defines one constant of the struct; GK_ISA_TABLE makes the accessor that picks by isa().
// Only files outside this folder include this header: an inline function here must not be compiled with wide flags.
#pragma once

#include "../dispatch.hpp"

#if defined(__x86_64__)
#define GK_ISA_TABLE(Table, name) \
  namespace scalar {              \
  extern const Table name;        \
  }                               \
  namespace avx2 {                \
  extern const Table name;        \
  }                               \
  namespace avx512 {              \
  extern const Table name;        \
  }                               \
  inline const Table& name() {    \
    switch (isa()) {              \
      case Isa::amx:              \
      case Isa::avx512:           \
        return avx512::name;      \
      case Isa::avx2:             \
        return avx2::name;        \
      default:                    \
        return scalar::name;      \
    }                             \
  }
#else
#define GK_ISA_TABLE(Table, name) \
  namespace scalar {              \
  extern const Table name;        \
  }                               \
  inline const Table& name() { return scalar::name; }
#endif
