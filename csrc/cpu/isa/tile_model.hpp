// A model of the tile instructions for processors that lack them: every thread has its own eight tiles. What the
// processor answers with an exception throws std::runtime_error.
#pragma once

#include <cstdint>

namespace gk::cpu::tile_model {

void ldtilecfg(const void* shapes);
void tilerelease();
void tilezero(int tile);
void tileloadd(int tile, const void* rows, std::int64_t stride);
void tilestored(int tile, void* rows, std::int64_t stride);
void tdpbf16ps(int c, int a, int b);

// Threads whose tiles have shapes: none, while no kernel runs.
int threads_with_tiles();
// Since the process began.
std::int64_t products_done();

}  // namespace gk::cpu::tile_model
