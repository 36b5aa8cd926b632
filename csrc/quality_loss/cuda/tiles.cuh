// What the kernels of the losses and of their gradients share.
#pragma once

#include "quality_loss/cuda/device.cuh"

namespace fa {
namespace quality {

// One block's locations.
template <typename S>
struct Tile {
  const CudaLevel<S>* level;
  int first_cell;
  int64_t area;
};

template <typename S>
__device__ __forceinline__ Tile<S> find_tile(const CudaWork<S>& work) {
  const int tile = blockIdx.x;
  int l = 0;
  while (l + 1 < work.levels && tile >= work.level[l + 1].first_tile) ++l;
  const CudaLevel<S>& level = work.level[l];
  return {&level, (tile - level.first_tile) * kTileLocations, int64_t(level.height) * level.width};
}

// Whether a later box of the same class holds the location, too: the last one weighs it.
template <typename S>
__device__ bool outdone(const CudaWork<S>& work, int g, int last, int cls, S x, S y) {
  for (int later = g + 1; later < last; ++later) {
    const DeviceBox<S> box = load_box(work, later);
    if (box.cls == cls && holds(box, x, y)) return true;
  }
  return false;
}

// The prior term of one image and its derivative by the image's sum over inside pairs.
template <typename S>
__device__ void prior_term(const CudaWork<S>& work, int image, double* value, double* slope) {
  const int begin = work.first_box[image], end = work.first_box[image + 1];
  double count = 0, sum = 0;
  for (int g = begin; g < end; ++g) {
    count += work.statistics[g].count;
    sum += work.options.quality_prior ? work.statistics[g].prior_root : work.statistics[g].gaussian;
  }
  const bool clamped = !work.options.quality_prior && sum < 1e-12;
  const double divisor = work.options.quality_prior ? sum + 1e-6 : clamp_min(sum, 1e-12);
  *value = count == 0 ? 0 : double(end - begin) / divisor;
  *slope = count == 0 || clamped ? 0 : -*value / divisor;
}

__device__ __forceinline__ double bag_of(const CudaStatistics& box) {
  return box.bag_confidence / clamp_min(box.bag_weight, 1e-12);
}

}  // namespace quality
}  // namespace fa
