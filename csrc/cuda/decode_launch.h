// Decoding on CUDA: what the kernels take, and their launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fa {
namespace decode {

constexpr int kThreads = 128;

// One level: keys (N, K*H*W) that order its pairs, largest first: the score's bits, then the
// inverted index (row, column, class), so that equal scores keep their order; 0 below the
// threshold. They lie as the logits do, so that neighbouring threads write neighbouring words.
struct KeyWork {
  int32_t images, classes, area;
  float threshold;
  const float* cls;  // (N, K, H, W) logits
  const float* obj;  // (N, 1, H, W) logits
  int64_t* keys;
};
cudaError_t launch_keys(const KeyWork& work, cudaStream_t stream);

constexpr int kMaxLevels = 8;
constexpr int kMaxImages = 65535;  // a grid's second side

struct KeepLevel {
  int32_t height, width, limit, first;  // candidates [first, first + limit) of an image's C
  float stride;
  const float* box;  // (N, 4, H, W) pixels
};

struct KeepWork {
  int32_t images, classes, levels, candidates, capacity;  // C, D
  float location_offset;
  double nms_threshold;
  KeepLevel level[kMaxLevels];
  const int64_t* keys;   // (N, C): the levels' best keys, one level after the other
  const int64_t* order;  // (N, C): positions in keys, best score first, then by position
  float* boxes;          // (N, D, 4)
  float* scores;         // (N, D)
  int64_t* labels;       // (N, D)
  int64_t* counts;       // (N)
};
cudaError_t launch_keep(const KeepWork& work, cudaStream_t stream);

}  // namespace decode
}  // namespace fa
