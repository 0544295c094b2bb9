// Tile registers: whether this process may use them, and the shapes that a task gives to those of its thread.
#pragma once

#include <string>

#include "isa/tiles.hpp"

namespace gk::cpu {

// Why no tiles can be used here; empty where they can. Where the processor and the operating system have them, the
// first call asks the operating system for this process's permission.
const std::string& why_no_tiles();

// Are the instructions a model of them, for tests?
bool tiles_are_emulated();

// Null unless "amx" is the instruction set in use.
const TileTable* tile_table();

// The tiles of this thread while a task computes: no other code finds them in use, and a thread that waits has none
// that would have to be saved.
class TileScope {
 public:
  TileScope() = default;
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

  // Before products of runs of this length.
  void shape_for(const TileTable& table, int64_t run);

 private:
  const TileTable* table_ = nullptr;
  int remainder_ = 0;
};

}  // namespace gk::cpu
