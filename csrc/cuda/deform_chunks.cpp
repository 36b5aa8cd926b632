#include "cuda/deform_chunks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>

namespace fa::deform::cuda {
namespace {

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Positions that a chunk takes of a level at a time.
int64_t unit(const LevelSize& level, int64_t rows) {
  for (const int64_t lines : {8, 1}) {
    if (lines * level.width <= rows / 4) return lines * level.width;
  }
  return 1;
}

}  // namespace

int64_t chunk_positions() {
  const char* wanted = std::getenv("FA_CUDA_CHUNK");
  if (wanted == nullptr || *wanted == '\0') return kChunkPositions;
  char* end = nullptr;
  const long long number = std::strtoll(wanted, &end, 10);
  TORCH_CHECK_VALUE(*end == '\0' && number >= 1 && number <= 1 << 20, "FA_CUDA_CHUNK=", wanted,
                    " is no number of positions from 1 to 2^20");
  return number;
}

Plan make_plan(const std::vector<LevelSize>& levels, int64_t bytes_per_position) {
  int64_t positions = 0;
  for (const LevelSize& level : levels) positions += level.images * level.height * level.width;
  const int64_t wanted = chunk_positions(), block_bytes = wanted * kBlockBytesPerPosition;
  const int64_t most = std::max<int64_t>(kColumnBytes / bytes_per_position, 1);
  // Chunks of equal size, so that none makes a tiny product: the last one may be smaller by what
  // the others were rounded up to whole units.
  const int64_t chunks = std::max(divided_up(positions, most), (positions + wanted / 2) / wanted);
  const int64_t rows = std::min(most, divided_up(positions, std::max<int64_t>(chunks, 1)));

  Plan plan;
  for (size_t l = 0; l < levels.size(); ++l) {
    const LevelSize& level = levels[l];
    const int64_t pixels = level.height * level.width, step = unit(level, rows);
    // A block's pixels are counted in 32 bits.
    int64_t images = std::max<int64_t>((int64_t{1} << 30) / pixels, 1);
    if (level.block_bytes > 0)
      images = std::clamp<int64_t>(block_bytes / level.block_bytes, 1, images);
    for (int64_t first = 0; first < level.images; first += images) {
      plan.blocks.push_back({l, first, std::min(images, level.images - first)});
      const int64_t count = plan.blocks.back().images * pixels;
      for (int64_t done = 0; done < count;) {
        if (plan.chunks.empty() || plan.chunks.back().rows >= rows) plan.chunks.emplace_back();
        Chunk& chunk = plan.chunks.back();
        // Up to the chunk's end, to the next whole unit of the block.
        const int64_t end = divided_up(done + rows - chunk.rows, step) * step;
        const int64_t taken = std::min(count, end) - done;
        chunk.segments.push_back({plan.blocks.size() - 1, done, taken, chunk.rows});
        chunk.rows += taken;
        done += taken;
        plan.rows = std::max(plan.rows, chunk.rows);
      }
    }
  }
  return plan;
}

}  // namespace fa::deform::cuda
