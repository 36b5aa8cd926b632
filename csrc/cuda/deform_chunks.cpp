#include "cuda/deform_chunks.h"

#include <algorithm>

namespace fa::deform::cuda {
namespace {

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace

Plan make_plan(const std::vector<LevelSize>& levels, int64_t bytes_per_position) {
  int64_t positions = 0;
  for (const LevelSize& level : levels) positions += level.images * level.pixels;
  // At most 2^25, so that within a block's image and a chunk 32 bits count the pixels.
  const int64_t most = std::max<int64_t>(kColumnBytes / bytes_per_position, 1);
  // Chunks of equal size, so that none makes a tiny product; in whole tiles of the product.
  const int64_t even = divided_up(positions, std::max<int64_t>(divided_up(positions, most), 1));
  const int64_t rows = std::min(most, divided_up(even, 128) * 128);

  Plan plan;
  for (size_t l = 0; l < levels.size(); ++l) {
    const LevelSize& level = levels[l];
    // A block's pixels are counted in 32 bits, too.
    int64_t images = std::max<int64_t>((int64_t{1} << 30) / level.pixels, 1);
    if (level.block_bytes > 0)
      images = std::clamp<int64_t>(kBlockBytes / level.block_bytes, 1, images);
    for (int64_t first = 0; first < level.images; first += images) {
      plan.blocks.push_back({l, first, std::min(images, level.images - first)});
      const int64_t count = plan.blocks.back().images * level.pixels;
      for (int64_t done = 0; done < count;) {
        if (plan.chunks.empty() || plan.chunks.back().rows == rows) plan.chunks.emplace_back();
        Chunk& chunk = plan.chunks.back();
        const int64_t taken = std::min(count - done, rows - chunk.rows);
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
