// The quality-weighted loss on CUDA: what the kernels take, and their launchers. No kernel uses
// atomics, and no launch depends on a value that lives on the device: the same bits in every run,
// no synchronisation. Legend: N images, L levels, K classes, A locations of all levels, G boxes of
// all images.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "common/map.h"
#include "quality_loss/math.h"

namespace fa {
namespace quality {

constexpr int kMaxLevels = 8;
constexpr int kMaxImages = 256;

template <typename S>
struct CudaLevel {
  int32_t height, width, first;  // first: index of its first location among an image's A
  int32_t first_tile;            // of an image's tiles, see map.h
  int32_t first_slice;           // of a box's slices
  S stride;
  Map<const S> cls, box;  // K logits; 4 distances in pixels
  const S* obj;           // (N, 1, H, W) logits
  Map<S> grad_cls, grad_box;
  S* grad_obj;
};

// A row of the statistics, see BoxStatistics in quality_loss/cpu/steps.h.
struct CudaStatistics {
  double bag_weight, bag_confidence, gaussian, prior_root, count;
  double lowest_joint, highest_joint, lowest_iou, highest_iou;
};

// What one slice adds to a box's statistics.
template <typename S>
struct SliceStatistics {
  double bag_weight, bag_confidence, gaussian, prior_root;
  S lowest_joint, highest_joint, lowest_iou, highest_iou;
  int64_t count;
};

// What the gradients of a box's pairs have in common.
template <typename S>
struct BoxSlopes {
  S bag;               // mean confidence of the bag, 0 where its weight is clamped
  S by_bag, by_prior;  // d losses / d (weighted confidence), and by the sum of the prior term
  S lowest_joint, highest_joint, lowest_iou, highest_iou;
};

// Everything by value or on the device.
template <typename S>
struct CudaWork {
  int32_t images, levels, classes, locations, boxes, tiles, slices;
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
  double* background;          // the sum of the boxes' Gaussians
  SliceStatistics<S>* parts;   // (G, slices)
  double* partial;             // (N, tiles): parts of neg
  BoxSlopes<S>* slopes;        // (G)
  double* slice_sums;          // (G, slices, 4): sums of dN N d and dN N d^2, x and y
  S* losses;                   // (3)
  S* grad_mu;
  S* grad_sigma;
  QualityOptionsOf<S> options;
};

constexpr int kThreads = 128;
// A block walks over this many of a box's locations at one level, or as many as the level's part of
// the box has left. There are as many blocks as the whole map would need: the host does not know
// the boxes.
constexpr int kSlice = 1024;
constexpr int kSliceThreads = 256;
constexpr int kFinishThreads = 512;  // of a kernel that is one block

// Each returns cudaGetLastError().
template <typename S>
cudaError_t launch_statistics(const CudaWork<S>& work, cudaStream_t stream);

template <typename S>
cudaError_t launch_losses(const CudaWork<S>& work, cudaStream_t stream);

template <typename S>
cudaError_t launch_gradients(const CudaWork<S>& work, cudaStream_t stream);

}  // namespace quality
}  // namespace fa
