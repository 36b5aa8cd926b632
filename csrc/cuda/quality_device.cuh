// What the kernels of the quality-weighted loss share.
#pragma once

#include "cuda/quality_launch.h"

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
  const S offset = S(work.options.location_offset);
  return {l, cell, int64_t(level.height) * level.width,
          (S(cell - row * level.width) + offset) * level.stride, (S(row) + offset) * level.stride};
}

template <typename S>
__device__ __forceinline__ Ltrb<S> load_prediction(const CudaWork<S>& work,
                                                   const Location<S>& place, int image) {
  const S* from = work.level[place.level].box + image * 4 * place.area + place.cell;
  return {from[0], from[place.area], from[2 * place.area], from[3 * place.area]};
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
  const S cls = level.cls[(int64_t(image) * work.classes + box.cls) * place.area + place.cell];
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
  const S offset = S(work.options.location_offset);
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
  const S offset = S(work.options.location_offset);
  return {l, int64_t(row) * level.width + column, int64_t(level.height) * level.width,
          (S(column) + offset) * level.stride, (S(row) + offset) * level.stride};
}

__device__ __forceinline__ int image_of(const int32_t* first_box, int images, int g) {
  int n = 0;
  while (n + 1 < images && g >= first_box[n + 1]) ++n;
  return n;
}

struct Sum {
  __device__ double operator()(double a, double b) const { return a + b; }
};
struct Lowest {
  __device__ double operator()(double a, double b) const { return b < a ? b : a; }
};
struct Highest {
  __device__ double operator()(double a, double b) const { return a < b ? b : a; }
};

// Over the values of the block's kCount threads, in a fixed order; every thread gets the result.
template <int kCount = kThreads, typename Op>
__device__ double block_reduce(double value, Op op, double* shared) {
  __syncthreads();
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kCount / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) {
      shared[threadIdx.x] = op(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
  }
  return shared[0];
}

}  // namespace quality
}  // namespace fa
