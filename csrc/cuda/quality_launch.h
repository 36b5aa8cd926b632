// The quality-weighted loss on CUDA: what the kernels take, and their launchers. No kernel uses
// atomics, and no launch depends on a value that lives on the device: the same bits in every run,
// no synchronisation. Legend: N images, L levels, K classes, A locations of all levels, G boxes of
// all images.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "math/quality.h"

namespace fa {
namespace quality {

constexpr int kMaxLevels = 8;
constexpr int kMaxImages = 256;

template <typename S>
struct CudaLevel {
  int32_t height, width, first;  // first: index of its first location among an image's A
  S stride;
  const S* cls;  // (N, K, H, W) logits
  const S* box;  // (N, 4, H, W) pixels
  const S* obj;  // (N, 1, H, W) logits
  S* grad_cls;
  S* grad_box;
  S* grad_obj;
};

// A row of the statistics, see BoxStatistics in cpu/quality_steps.h.
struct CudaStatistics {
  double bag_weight, bag_confidence, gaussian, prior_root, count;
  double lowest_joint, highest_joint, lowest_iou, highest_iou;
};

// Everything by value or on the device.
template <typename S>
struct CudaWork {
  int32_t images, levels, classes, locations, boxes;
  int32_t first_box[kMaxImages + 1];  // image n has boxes [n, n + 1)
  CudaLevel<S> level[kMaxLevels];
  const S* corners;            // (G, 4)
  const int64_t* box_classes;  // (G)
  const S* mu;                 // (L or 1, K, 2)
  const S* sigma;
  int32_t level_step;          // of mu and sigma: 2 K, or 0 where all levels share a row
  S* max_iou;                  // (N, A)
  CudaStatistics* statistics;  // (G)
  const double* divisors;      // (2)
  const S* grad_losses;        // (3)
  double* partial;             // (N, blocks_per_image): parts of neg
  double* factors;             // (G, 2): d losses / d b_g, and by the sum of the prior term
  double* box_sums;            // (G, L, 4): sums of dN N d and dN N d^2, x and y
  S* losses;                   // (3)
  S* grad_mu;
  S* grad_sigma;
  QualityOptions options;
};

constexpr int kThreads = 128;
// Of a block that walks over the locations of one box: an image-sized one has tens of thousands.
constexpr int kBoxThreads = 256;

inline int blocks_per_image(int64_t locations) {
  return static_cast<int>((locations + kThreads - 1) / kThreads);
}

// Each returns cudaGetLastError().
template <typename S>
cudaError_t launch_statistics(const CudaWork<S>& work, cudaStream_t stream);

template <typename S>
cudaError_t launch_losses(const CudaWork<S>& work, cudaStream_t stream);

template <typename S>
cudaError_t launch_gradients(const CudaWork<S>& work, cudaStream_t stream);

}  // namespace quality
}  // namespace fa
