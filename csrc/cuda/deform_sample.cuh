// What the CUDA kernels of the deformable convolution share: where a tap of a position samples, and
// the register-blocked product of two tiles in shared memory.
#pragma once

#include "cuda/deform_conv.h"
#include "math/bilinear.h"

namespace fa::deform {

constexpr int kTileRows =
    64;  // positions (or channels, for the weight's gradient) of a block's tile
constexpr int kTileColumns = 64;  // outputs (or channels) of a block's tile
constexpr int kTileDepth = 32;    // what is summed over at a time
constexpr int kThreads = 256;     // 16 x 16, each computes 4 x 4
constexpr int kMicro = 4;

// A position of a level: image, row and column of the output.
struct Position {
  int64_t image;
  int32_t y, x;
};

__device__ inline Position position_of(const CudaGeometry& g, int64_t position) {
  const int32_t map = g.out_height * g.out_width;
  const int32_t rest = static_cast<int32_t>(position % map);
  return {position / map, rest / g.out_width, rest % g.out_width};
}

template <typename T>
struct TapSample {
  T weight[4];  // times the mask
  T ly, lx, mask;
  int32_t corner[4];  // y * width + x, or -1 for one outside
};

template <typename T>
__device__ inline T sigmoid(T value) {
  return T(1) / (T(1) + exp(-value));
}

// Where `tap` of `offset_group` samples for a position below g.positions.
template <typename T>
__device__ inline TapSample<T> locate(const CudaLevel<T>& level, int64_t position, int tap,
                                      int offset_group) {
  const CudaGeometry& g = level.geometry;
  const Position at = position_of(g, position);
  const int64_t map = int64_t(g.out_height) * g.out_width,
                pixel = int64_t(at.y) * g.out_width + at.x;
  const int64_t channel = int64_t(offset_group) * g.kernel_h * g.kernel_w + tap;
  const T* offset = level.offset + at.image * level.offset_stride + 2 * channel * map + pixel;
  const T y = T(at.y * g.stride_h - g.pad_h + tap / g.kernel_w * g.dilation_h) + offset[0];
  const T x = T(at.x * g.stride_w - g.pad_w + tap % g.kernel_w * g.dilation_w) + offset[map];
  const BilinearPoint<T> point = bilinear_point(y, x, g.height, g.width, -1);
  TapSample<T> sample;
  sample.ly = point.ly;
  sample.lx = point.lx;
  sample.mask = T(1);
  if (level.mask != nullptr) {
    sample.mask = level.mask[at.image * level.mask_stride + channel * map + pixel];
    if (g.mask_is_logit) sample.mask = sigmoid(sample.mask);
  }
  bilinear_weights(sample.ly, sample.lx, sample.mask, sample.weight);
#pragma unroll
  for (int k = 0; k < 4; ++k) sample.corner[k] = point.corner[k];
  return sample;
}

// A corner's value. Outside it is 0, and 0 times a NaN weight stays NaN.
template <typename T>
__device__ inline T corner_value(const T* plane, int32_t corner) {
  return corner < 0 ? T(0) : __ldg(plane + corner);
}

template <typename T>
__device__ inline T sample_value(const TapSample<T>& sample, const T* plane) {
  T value = T(0);
#pragma unroll
  for (int k = 0; k < 4; ++k) value += sample.weight[k] * corner_value(plane, sample.corner[k]);
  return value;
}

// sums (4, 4) += a (kTileDepth, kTileRows) transposed times b (kTileDepth, kTileColumns), for this
// thread's rows row + 16 i and columns column + 16 j: neighbouring threads read neighbouring words.
template <typename T>
__device__ inline void multiply_tiles(const T (*a)[kTileRows + 1], const T (*b)[kTileColumns + 1],
                                      int row, int column, T sums[kMicro][kMicro]) {
#pragma unroll 4
  for (int k = 0; k < kTileDepth; ++k) {
    T left[kMicro], right[kMicro];
#pragma unroll
    for (int i = 0; i < kMicro; ++i) left[i] = a[k][row + 16 * i];
#pragma unroll
    for (int j = 0; j < kMicro; ++j) right[j] = b[k][column + 16 * j];
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
#pragma unroll
      for (int j = 0; j < kMicro; ++j) sums[i][j] += left[i] * right[j];
    }
  }
}

}  // namespace fa::deform
