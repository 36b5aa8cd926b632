// Backward of the deformable convolution on CUDA. The gradient by the columns exists a tile at a
// time only.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <ATen/cuda/Atomic.cuh>

#include "cuda/deform_sample.cuh"

namespace fa::deform {
namespace {

// One block: kTileRows positions, one tap, one offset group. It walks over the group's channels, so
// the derivatives by the coordinates are summed in one order without atomics. Grid (tiles of
// positions, taps, offset groups).
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    points_kernel(const CudaLevel<T> level, const T* __restrict__ weight,
                  const T* __restrict__ grad_output, T* __restrict__ grad_input,
                  T* __restrict__ grad_offset, T* __restrict__ grad_mask) {
  constexpr int kChannels = kTileColumns;
  __shared__ T shared[2][kTileDepth][kTileRows + 1];
  T(*grads)[kTileRows + 1] = shared[0];    // (outputs, positions)
  T(*weights)[kTileRows + 1] = shared[1];  // (outputs, channels)
  static_assert(kTileRows == kTileColumns && 3 * 16 <= 2 * kTileDepth && kThreads % kTileRows == 0);
  const CudaGeometry& g = level.geometry;
  const int group_channels = g.channels / g.groups, group_outputs = g.outputs / g.groups;
  const int offset_channels = g.channels / g.offset_groups;
  const int taps = g.kernel_h * g.kernel_w, tap = blockIdx.y, offset_group = blockIdx.z;
  const int64_t first_position = int64_t(blockIdx.x) * kTileRows;
  const int64_t plane = int64_t(g.height) * g.width, map = int64_t(g.out_height) * g.out_width;
  const int row = threadIdx.x % 16, column = threadIdx.x / 16;

  const int my_position =
      threadIdx.x % kTileRows;  // that this thread loads, and whose sums it writes
  const bool there = first_position + my_position < g.positions;
  const int64_t image = there ? (first_position + my_position) / map : 0;
  const int64_t pixel = there ? (first_position + my_position) % map : 0;

  T by_y[kMicro] = {}, by_x[kMicro] = {}, by_mask[kMicro] = {};
  const int end_channel = (offset_group + 1) * offset_channels;
  for (int first_channel = offset_group * offset_channels, run; first_channel < end_channel;
       first_channel += run) {
    // Channels [first_channel, first_channel + run) of one conv group.
    const int group = first_channel / group_channels;
    run = min(min(kChannels, end_channel - first_channel),
              (group + 1) * group_channels - first_channel);
    T sums[kMicro][kMicro] = {};  // gradient by the column: positions x channels
    for (int begin = 0; begin < group_outputs; begin += kTileDepth) {
      for (int o = threadIdx.x / kTileRows; o < kTileDepth; o += kThreads / kTileRows) {
        const int64_t channel = int64_t(group) * group_outputs + begin + o;
        const bool inside = there && begin + o < group_outputs;
        grads[o][my_position] =
            inside ? grad_output[(image * g.outputs + channel) * map + pixel] : T(0);
      }
      for (int i = threadIdx.x; i < kTileDepth * kChannels; i += kThreads) {
        const int o = i % kTileDepth, c = i / kTileDepth;
        const int64_t channel = first_channel - group * group_channels + c;
        const int64_t at =
            ((int64_t(group) * taps + tap) * group_channels + channel) * group_outputs;
        weights[o][c] = c < run && begin + o < group_outputs ? weight[at + begin + o] : T(0);
      }
      __syncthreads();
      multiply_tiles(grads, weights, row, column, sums);
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kMicro; ++i) {
      const int64_t position = first_position + row + 16 * i;
      if (position >= g.positions) continue;
      const TapSample<T> sample = locate(level, position, tap, offset_group);
      const int64_t image_at = position_of(g, position).image;
#pragma unroll
      for (int j = 0; j < kMicro; ++j) {
        const int c = column + 16 * j;
        if (c >= run) continue;
        const int64_t at = (image_at * g.channels + first_channel + c) * plane;
        T corner[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          corner[k] = corner_value(level.input + at, sample.corner[k]);
          if (grad_input != nullptr && sample.corner[k] >= 0) {
            gpuAtomicAddNoReturn(grad_input + at + sample.corner[k], sample.weight[k] * sums[i][j]);
          }
        }
        T value, dy, dx;
        bilinear_derivatives(sample.ly, sample.lx, corner, &value, &dy, &dx);
        const T slope = g.mask_is_logit ? sample.mask * (T(1) - sample.mask) : T(1);
        by_y[i] += dy * sample.mask * sums[i][j];
        by_x[i] += dx * sample.mask * sums[i][j];
        by_mask[i] += value * slope * sums[i][j];
      }
    }
  }
  if (grad_offset == nullptr && grad_mask == nullptr) return;
  // The tiles are done with: their memory holds (derivative, thread column, position).
  T(*partial)[kTileRows + 1] = shared[0];
#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
    partial[column][row + 16 * i] = by_y[i];
    partial[16 + column][row + 16 * i] = by_x[i];
    partial[32 + column][row + 16 * i] = by_mask[i];
  }
  __syncthreads();
  const int kind = threadIdx.x / kTileRows;
  if (kind == 3 || !there) return;
  T total = T(0);
  for (int i = 0; i < 16; ++i) total += partial[16 * kind + i][my_position];
  const int64_t channel = int64_t(offset_group) * taps + tap;
  if (kind < 2 && grad_offset != nullptr) {
    grad_offset[image * level.offset_stride + (2 * channel + kind) * map + pixel] = total;
  } else if (kind == 2 && grad_mask != nullptr) {
    grad_mask[image * level.mask_stride + channel * map + pixel] = total;
  }
}

// One block: kTileRows channels, kTileColumns outputs of one group and tap, one split of the
// positions. The sums' order depends on the shapes alone. Grid (tiles of channels * tiles of
// outputs, taps * groups, splits).
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    weight_kernel(const CudaLevel<T> level, const T* __restrict__ grad_output,
                  int64_t split_positions, T* __restrict__ partial) {
  __shared__ T columns[kTileDepth][kTileRows + 1];   // (positions, channels)
  __shared__ T grads[kTileDepth][kTileColumns + 1];  // (positions, outputs)
  const CudaGeometry& g = level.geometry;
  const int group_channels = g.channels / g.groups, group_outputs = g.outputs / g.groups;
  const int offset_channels = g.channels / g.offset_groups;
  const int taps = g.kernel_h * g.kernel_w, tap = blockIdx.y % taps, group = blockIdx.y / taps;
  const int output_tiles = (group_outputs + kTileColumns - 1) / kTileColumns;
  const int first_channel = blockIdx.x / output_tiles * kTileRows,
            first_output = blockIdx.x % output_tiles * kTileColumns;
  const int64_t plane = int64_t(g.height) * g.width, map = int64_t(g.out_height) * g.out_width;
  const int64_t begin_position = blockIdx.z * split_positions;
  const int64_t end_position = min(begin_position + split_positions, g.positions);
  const int row = threadIdx.x % 16, column = threadIdx.x / 16;
  // A thread samples one position of the tile, every eighth channel.
  const int my_position = threadIdx.x % kTileDepth, my_channel = threadIdx.x / kTileDepth;

  T sums[kMicro][kMicro] = {};  // channels x outputs
  for (int64_t first = begin_position; first < end_position; first += kTileDepth) {
    const int64_t position = first + my_position;
    const bool there = position < end_position;
    const int64_t image = there ? position / map : 0, pixel = there ? position % map : 0;
    TapSample<T> sample;
    int located = -1;
    for (int k = my_channel; k < kTileRows; k += kThreads / kTileDepth) {
      T value = T(0);
      if (there && first_channel + k < group_channels) {
        const int channel = group * group_channels + first_channel + k;
        if (channel / offset_channels != located) {
          located = channel / offset_channels;
          sample = locate(level, position, tap, located);
        }
        value = sample_value(sample, level.input + (image * g.channels + channel) * plane);
      }
      columns[my_position][k] = value;
    }
    for (int k = my_channel; k < kTileColumns; k += kThreads / kTileDepth) {
      const bool inside = there && first_output + k < group_outputs;
      const int64_t channel = int64_t(group) * group_outputs + first_output + k;
      grads[my_position][k] =
          inside ? grad_output[(image * g.outputs + channel) * map + pixel] : T(0);
    }
    __syncthreads();
    multiply_tiles(columns, grads, row, column, sums);
    __syncthreads();
  }
  T* to = partial +
          ((int64_t(blockIdx.z) * g.groups + group) * taps + tap) * group_channels * group_outputs;
#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
#pragma unroll
    for (int j = 0; j < kMicro; ++j) {
      const int c = first_channel + row + 16 * i, o = first_output + column + 16 * j;
      if (c < group_channels && o < group_outputs) to[int64_t(c) * group_outputs + o] = sums[i][j];
    }
  }
}

}  // namespace

template <typename T>
void launch_backward_points(const CudaLevel<T>& level, const T* weight, const T* grad_output,
                            T* grad_input, T* grad_offset, T* grad_mask) {
  const CudaGeometry& g = level.geometry;
  if (g.positions == 0) return;
  const dim3 grid((g.positions + kTileRows - 1) / kTileRows, g.kernel_h * g.kernel_w,
                  g.offset_groups);
  points_kernel<T><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      level, weight, grad_output, grad_input, grad_offset, grad_mask);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch_backward_weight(const CudaLevel<T>& level, const T* grad_output, int splits,
                            T* partial) {
  const CudaGeometry& g = level.geometry;
  if (g.positions == 0) return;
  const int64_t tiles = (g.positions + kTileDepth - 1) / kTileDepth;
  const int64_t split_positions = (tiles + splits - 1) / splits * kTileDepth;
  const int channel_tiles = (g.channels / g.groups + kTileRows - 1) / kTileRows;
  const int output_tiles = (g.outputs / g.groups + kTileColumns - 1) / kTileColumns;
  const dim3 grid(channel_tiles * output_tiles, g.kernel_h * g.kernel_w * g.groups, splits);
  weight_kernel<T><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      level, grad_output, split_positions, partial);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define FA_INSTANTIATE(T)                                                                       \
  template void launch_backward_points<T>(const CudaLevel<T>&, const T*, const T*, T*, T*, T*); \
  template void launch_backward_weight<T>(const CudaLevel<T>&, const T*, int, T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)

}  // namespace fa::deform
