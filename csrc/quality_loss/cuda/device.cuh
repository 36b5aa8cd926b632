// What the kernels of the quality-weighted loss share.
#pragma once

#include "quality_loss/cuda/launch.h"

namespace fa {
namespace quality {

// A box's class and corners. A class out of [0, K), which the host cannot see without waiting,
// makes a box that holds no location.
template <typename S>
struct DeviceBox {
  int cls;
  S x1, y1, x2, y2;
};

template <typename S>
__device__ __forceinline__ DeviceBox<S> load_box(const CudaWork<S>& work, int g) {
  const int64_t cls = work.box_classes[g];
  const S* corner = work.corners + 4 * int64_t(g);
  if (cls < 0 || cls >= work.classes) return {0, S(0), S(0), S(0), S(0)};
  return {int(cls), corner[0], corner[1], corner[2], corner[3]};
}

template <typename S>
__device__ __forceinline__ bool holds(const DeviceBox<S>& box, S x, S y) {
  return x > box.x1 && y > box.y1 && x < box.x2 && y < box.y2;
}

// One location of one image.
template <typename S>
struct Location {
  int level;
  int64_t cell, area;  // row * W + column; H * W
  S x, y;
};

template <typename S>
__device__ __forceinline__ Location<S> locate(const CudaWork<S>& work, int a) {
  int l = 0;
  while (l + 1 < work.levels && a >= work.level[l + 1].first) ++l;
  const CudaLevel<S>& level = work.level[l];
  const int cell = a - level.first, row = cell / level.width;
  const S offset = work.options.location_offset;
  return {l, cell, int64_t(level.height) * level.width,
          (S(cell - row * level.width) + offset) * level.stride, (S(row) + offset) * level.stride};
}

template <typename S>
__device__ __forceinline__ Ltrb<S> load_prediction(const CudaWork<S>& work,
                                                   const Location<S>& place, int image) {
  const Map<const S>& map = work.level[place.level].box;
  const S* from = channels_of(map, image, place.cell);
  return {from[0], from[map.channel], from[2 * int64_t(map.channel)],
          from[3 * int64_t(map.channel)]};
}

template <typename S>
__device__ __forceinline__ Gaussian<S> gaussian_of(const CudaWork<S>& work, const DeviceBox<S>& box,
                                                   int level) {
  const int at = level * work.level_step + 2 * box.cls;
  return make_gaussian(box.x1, box.y1, box.x2, box.y2, work.level[level].stride, work.mu + at,
                       work.sigma + at);
}

template <typename S>
__device__ __forceinline__ PairQuality<S> pair_of(const CudaWork<S>& work, const Location<S>& place,
                                                  int image, const DeviceBox<S>& box,
                                                  const Ltrb<S>& prediction,
                                                  const Gaussian<S>& gaussian) {
  const CudaLevel<S>& level = work.level[place.level];
  const S cls = channels_of(level.cls, image, place.cell)[int64_t(box.cls) * level.cls.channel];
  const S obj = level.obj[image * place.area + place.cell];
  return pair_quality<S, S>(cls, obj, prediction, place.x, place.y, box.x1, box.y1, box.x2, box.y2,
                            gaussian, work.options);
}

// The rectangle of cells inside one box at one level: [x0, x1) x [y0, y1).
struct Cells {
  int x0, x1, y0, y1;
  __device__ __forceinline__ int count() const { return (x1 - x0) * (y1 - y0); }
};

template <typename S>
__device__ __forceinline__ void cells_between(S low, S high, int count, S stride, S offset,
                                              int* begin, int* end) {
  const auto coordinate = [&](int cell) { return (S(cell) + offset) * stride; };
  const auto guess = [&](S at) {
    const S cell = at / stride - offset;
    return cell > 0 ? int(cell < S(count) ? cell : S(count)) : 0;  // NaN: 0
  };
  *begin = guess(low), *end = guess(high);
  while (*begin > 0 && coordinate(*begin - 1) > low) --*begin;
  while (*begin < count && !(coordinate(*begin) > low)) ++*begin;
  while (*end > 0 && !(coordinate(*end - 1) < high)) --*end;
  while (*end < count && coordinate(*end) < high) ++*end;
  if (*end < *begin) *end = *begin;
}

template <typename S>
__device__ __forceinline__ Cells cells_inside(const CudaWork<S>& work, const DeviceBox<S>& box,
                                              int l) {
  const CudaLevel<S>& level = work.level[l];
  const S offset = work.options.location_offset;
  Cells cells;
  cells_between(box.x1, box.x2, level.width, level.stride, offset, &cells.x0, &cells.x1);
  cells_between(box.y1, box.y2, level.height, level.stride, offset, &cells.y0, &cells.y1);
  return cells;
}

// The k-th location inside a box, counted over one level's rectangle.
template <typename S>
__device__ __forceinline__ Location<S> location_inside(const CudaWork<S>& work, int l,
                                                       const Cells& cells, int k) {
  const CudaLevel<S>& level = work.level[l];
  const int width = cells.x1 - cells.x0, row = cells.y0 + k / width, column = cells.x0 + k % width;
  const S offset = work.options.location_offset;
  return {l, int64_t(row) * level.width + column, int64_t(level.height) * level.width,
          (S(column) + offset) * level.stride, (S(row) + offset) * level.stride};
}

__device__ __forceinline__ int image_of(const int32_t* first_box, int images, int g) {
  int n = 0;
  while (n + 1 < images && g >= first_box[n + 1]) ++n;
  return n;
}

// One of a box's slices: the cells [begin, end) of its rectangle at one level.
struct Slice {
  int g, level, begin, end;
  Cells cells;
  __device__ __forceinline__ bool empty() const { return begin >= end; }
};

// The block's, of a grid of G * slices blocks; all its threads call this.
template <typename S>
__device__ __forceinline__ Slice find_slice(const CudaWork<S>& work, const DeviceBox<S>& box,
                                            int g) {
  __shared__ Cells shared;
  const int at = blockIdx.x - g * work.slices;
  int l = 0;
  while (l + 1 < work.levels && at >= work.level[l + 1].first_slice) ++l;
  if (threadIdx.x == 0) shared = cells_inside(work, box, l);
  __syncthreads();
  const Cells cells = shared;
  const int begin = (at - work.level[l].first_slice) * kSlice;
  return {g, l, begin, min(begin + kSlice, cells.count()), cells};
}

// use(location, pair) for the slice's locations that are this thread's.
template <typename S, typename Use>
__device__ __forceinline__ void for_each_pair(const CudaWork<S>& work, const Slice& slice,
                                              const DeviceBox<S>& box, int image, const Use& use) {
  const Gaussian<S> gaussian = gaussian_of(work, box, slice.level);
  for (int k = slice.begin + threadIdx.x; k < slice.end; k += kSliceThreads) {
    const Location<S> place = location_inside(work, slice.level, slice.cells, k);
    use(place, pair_of(work, place, image, box, load_prediction(work, place, image), gaussian));
  }
}

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Lowest {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Highest {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

// Over the warp's values, in a fixed order; every lane gets the result.
template <typename T, typename Op>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
  for (int distance = 16; distance > 0; distance /= 2) {
    // The lower lane's value comes first, for both lanes.
    const T other = __shfl_xor_sync(0xffffffff, value, distance);
    value = threadIdx.x & distance ? op(other, value) : op(value, other);
  }
  return value;
}

// Over the values of the block's kCount threads, in a fixed order; every thread gets the result.
// `shared`: kCount / 32 of them.
template <int kCount, typename T, typename Op>
__device__ T block_reduce(T value, Op op, T* shared) {
  value = warp_reduce(value, op);
  __syncthreads();  // the last result has been read
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < kCount / 32; ++warp) value = op(value, shared[warp]);
  return value;
}

}  // namespace quality
}  // namespace fa
