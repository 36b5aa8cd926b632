// Decoding on CUDA: what the kernels take, and their launchers. No launch depends on a value that
// lives on the device. Legend: N images, L levels, K classes, P (location, class) pairs of an
// image, C candidates that its levels may pass on, D detections that it may have.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/map.h"

namespace fa {
namespace decode {

constexpr int kMaxLevels = 8;
constexpr int kMaxImages = 65535;  // a grid's second side
// A score's bits shifted by kBinShift are its bin: sixteen a power of two, up to 1.
constexpr int kBins = 2048, kBinShift = 19;
constexpr int kMaxSorted = 8192;  // candidates of an image that are sorted in shared memory

struct DecodeLevel {
  int32_t height, width;
  int32_t limit, first;  // candidates [first, first + limit) of an image's C
  int32_t first_tile;    // of an image's tiles, see map.h
  uint32_t first_pair;   // pairs [first_pair, first_pair + H W K) of an image's P
  float stride;
  Map<const float> cls, box;  // K logits; 4 distances in pixels
  const float* obj;           // (N, 1, H, W) logits
};

// A key orders an image's pairs, largest first: the score's bits, then the inverted number of the
// pair (level, row, column, class), so that equal scores keep their order. 0 is none.
struct DecodeWork {
  int32_t images, classes, levels, tiles;
  int64_t pairs;
  int32_t candidates, capacity;  // C, D
  float location_offset, score_threshold;
  float nms_threshold;  // rounded_down
  DecodeLevel level[kMaxLevels];
  uint64_t* keys;          // (N, P), those above the threshold first, level by level
  int32_t* passed;         // (N, L): how many they are
  int32_t* histogram;      // (N, L, kBins), of their scores
  uint64_t* best;          // (N, C), in any order, level by level; 0 behind the last
  const uint64_t* sorted;  // (N, C), or none where launch_keep sorts
  float* boxes;            // (N, D, 4)
  float* scores;           // (N, D)
  int64_t* labels;         // (N, D)
  int64_t* counts;         // (N)
};

// All scores above the threshold, as keys; passed and histogram hold zeros.
cudaError_t launch_scores(const DecodeWork& work, cudaStream_t stream);

// Each level's best.
cudaError_t launch_select(const DecodeWork& work, cudaStream_t stream);

// Shared memory that a block of launch_keep takes to sort so many candidates.
int64_t shared_bytes_to_sort(int64_t candidates);

// Sorting, where `sorted` is none, and NMS. Writes all of the results.
cudaError_t launch_keep(const DecodeWork& work, cudaStream_t stream);

}  // namespace decode
}  // namespace fa
