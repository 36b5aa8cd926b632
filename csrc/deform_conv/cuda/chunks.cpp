#include "deform_conv/cuda/chunks.h"

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
  // Chunks of equal size, so that none makes a tiny product, but for the rounding to whole units.
  const int64_t chunks = std::max(divided_up(positions, most), (positions + wanted / 2) / wanted);
  const int64_t rows = divided_up(positions, std::max<int64_t>(chunks, 1));

  Plan plan;
  int64_t before = 0;  // positions of the blocks before this one
  bool full = true;    // the last chunk
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
        if (full) plan.chunks.emplace_back();
        Chunk& chunk = plan.chunks.back();
        // Where this many chunks should end, in the block: at the nearest whole unit.
        const int64_t wanted_end = int64_t(plan.chunks.size()) * rows - before;
        int64_t end = (wanted_end + step / 2) / step * step;
        if (end <= done && chunk.rows == 0) end = (done / step + 1) * step;
        full = end <= count;
        if (end <= done) continue;
        const int64_t taken = std::min(count, end) - done;
        chunk.segments.push_back({plan.blocks.size() - 1, done, taken, chunk.rows});
        chunk.rows += taken;
        done += taken;
        plan.rows = std::max(plan.rows, chunk.rows);
      }
      before += count;
    }
  }
  return plan;
}

}  // namespace fa::deform::cuda
