// How the work of the deformable convolution on CUDA is cut so that its memory is bounded: chunks
// of output positions, whose columns exist at a time, over blocks of whole images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fa::deform::cuda {

// Bytes of columns that exist at a time. They stay in the L2 cache (A100 40 MB, H100 50 MB, RTX
// 4090 72 MB) between the kernel that makes them and the product that reads them, and are many
// enough to fill such a device: 7,281 positions of a 3x3 kernel over 256 channels in half
// precision, 114 tiles of a product with 256 outputs. On a device with a small cache they go
// through its memory, whose traffic then still is a fraction of the product's time.
constexpr int64_t kColumnBytes = int64_t{32} << 20;
// Bytes of input, or of its gradient's sums, that are converted at a time: one image at least.
constexpr int64_t kBlockBytes = kColumnBytes;

// Images [first_image, first_image + images) of a level.
struct Block {
  size_t level;
  int64_t first_image, images;
};

// Positions [first, first + count) of a block, in rows [row, row + count) of the chunk.
struct Segment {
  size_t block;
  int64_t first, count, row;
};

// Rows of one product. Small levels share a chunk, so that none makes a tiny product.
struct Chunk {
  std::vector<Segment> segments;
  int64_t rows = 0;
};

struct Plan {
  std::vector<Block> blocks;  // as the chunks go through them
  std::vector<Chunk> chunks;
  int64_t rows = 0;  // of the largest chunk
};

struct LevelSize {
  int64_t images, pixels;  // of the output
  int64_t block_bytes;     // that one image takes of kBlockBytes; 0: it needs none of its own
};

// Depends on sizes alone, and so does the order of all sums.
Plan make_plan(const std::vector<LevelSize>& levels, int64_t bytes_per_position);

}  // namespace fa::deform::cuda
