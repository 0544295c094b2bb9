// The probe of tiles: CPUID, XCR0, and the permission that Linux wants to be asked for before it lets a process's
// threads grow by 8 KiB of tile registers.
#include "tiles.hpp"

#include "bf16.hpp"
#include "dispatch.hpp"

#if defined(GK_AMX) && !defined(GK_AMX_EMULATED)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#endif
#endif

namespace gk::cpu {

#if defined(GK_AMX)
namespace amx {
extern const TileTable bf16_tiles;
}

namespace {

std::string probe() {
  if (!has_bf16_instructions()) return "this processor has no AVX512-BF16, which rounds what tiles multiply";
#if !defined(GK_AMX_EMULATED)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  constexpr unsigned long long kTileState = 3ull << 17;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTile) || !(d & kBf16)) return "this processor has no AMX-BF16";
  if ((enabled_states() & kTileState) != kTileState) return "the operating system does not save tiles (XCR0)";
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return std::string("the operating system did not permit tiles: ") + std::strerror(errno);
#endif
#endif
  return "";
}

}  // namespace

const std::string& why_no_tiles() {
  static const std::string reason = probe();
  return reason;
}

const TileTable* tile_table() { return isa() == Isa::amx ? &amx::bf16_tiles : nullptr; }
#else
const std::string& why_no_tiles() {
  static const std::string reason = GK_NO_AMX;
  return reason;
}

const TileTable* tile_table() { return nullptr; }
#endif

bool tiles_are_emulated() {
#if defined(GK_AMX_EMULATED)
  return true;
#else
  return false;
#endif
}

void TileScope::shape_for(const TileTable& table, int64_t run) {
  const int remainder = static_cast<int>(run % TileTable::kPairs);
  if (table_ && remainder == remainder_) return;
  table.shape(remainder);
  table_ = &table, remainder_ = remainder;
}

TileScope::~TileScope() {
  if (table_) table_->release();
}

}  // namespace gk::cpu
