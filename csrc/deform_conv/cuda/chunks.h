// How the work of the deformable convolution on CUDA is cut so that its memory is bounded: chunks
// of output positions, whose columns exist at a time, over blocks of whole images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fa::deform::cuda {

// Positions whose columns exist at a time: with 256 outputs their product is 64 x 2 tiles of 128 x
// 128 for the 132 multiprocessors of an H100, whatever the dtype. With 256 channels and 3x3 taps
// the columns take 36 MiB in half precision, which the L2 caches of an H100 (50 MB) or RTX 4090 (72
// MB) hold, and an A100's (two halves of 20 MB) hold in part.
constexpr int64_t kChunkPositions = 8192;
// And no more bytes of columns than this and a quarter, or one position's: what kChunkPositions of
// float32 take.
constexpr int64_t kColumnBytes = int64_t{72} << 20;
// Bytes of input, or of its gradient's sums, that are converted at a time, for each of these
// positions: 34 MiB in all, which take two images of 100 x 168 pixels and 256 channels in float32,
// four in half precision. One image at least.
constexpr int64_t kBlockBytesPerPosition = 4352;

// kChunkPositions, or what FA_CUDA_CHUNK says, for benchmarks and tests. Raises ValueError where
// that is no number from 1 to 2^20.
int64_t chunk_positions();

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
  int64_t images, height, width;  // of the output
  int64_t block_bytes;            // that one image takes of a block; 0: it needs none of its own
};

// Chunks end with a row of patches (8 rows of a map) where those are small beside a chunk, else
// with a row, else anywhere. Depends on sizes alone, and so does the order of all sums.
Plan make_plan(const std::vector<LevelSize>& levels, int64_t bytes_per_position);

}  // namespace fa::deform::cuda
