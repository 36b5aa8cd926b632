// Forward of the deformable convolution on CUDA: implicit product, the sampled columns live in
// shared memory alone.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "cuda/deform_sample.cuh"

namespace fa::deform {
namespace {

// One block: kTileRows positions, kTileColumns outputs of one group. Grid (tiles of positions,
// tiles of outputs, groups).
template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(const CudaLevel<T> level, const T* __restrict__ weight,
                   const T* __restrict__ bias, T* __restrict__ output) {
  __shared__ T columns[kTileDepth][kTileRows + 1];
  __shared__ T weights[kTileDepth][kTileColumns + 1];
  const CudaGeometry& g = level.geometry;
  const int group_channels = g.channels / g.groups, group_outputs = g.outputs / g.groups;
  const int offset_channels = g.channels / g.offset_groups;
  const int taps = g.kernel_h * g.kernel_w;
  const int64_t first_position = int64_t(blockIdx.x) * kTileRows;
  const int first_output = blockIdx.y * kTileColumns, group = blockIdx.z;
  const int row = threadIdx.x % 16, column = threadIdx.x / 16;
  // A thread samples one position, every fourth channel: neighbouring threads read neighbouring
  // pixels.
  const int my_position = threadIdx.x % kTileRows, my_channel = threadIdx.x / kTileRows;
  const int64_t position = first_position + my_position;
  const bool there = position < g.positions;
  const int64_t plane = int64_t(g.height) * g.width;
  const T* image = level.input;
  if (there) image += position_of(g, position).image * g.channels * plane;

  T sums[kMicro][kMicro] = {};
  for (int tap = 0; tap < taps; ++tap) {
    TapSample<T> sample;
    int located = -1;
    for (int begin = 0; begin < group_channels; begin += kTileDepth) {
      for (int k = my_channel; k < kTileDepth; k += kThreads / kTileRows) {
        T value = T(0);
        if (there && begin + k < group_channels) {
          const int channel = group * group_channels + begin + k;
          if (channel / offset_channels != located) {
            located = channel / offset_channels;
            sample = locate(level, position, tap, located);
          }
          value = sample_value(sample, image + channel * plane);
        }
        columns[k][my_position] = value;
      }
      for (int i = threadIdx.x; i < kTileDepth * kTileColumns; i += kThreads) {
        const int k = i / kTileColumns, o = i % kTileColumns;
        const bool inside = begin + k < group_channels && first_output + o < group_outputs;
        const int64_t at =
            ((int64_t(group) * taps + tap) * group_channels + begin + k) * group_outputs;
        weights[k][o] = inside ? weight[at + first_output + o] : T(0);
      }
      __syncthreads();
      multiply_tiles(columns, weights, row, column, sums);
      __syncthreads();
    }
  }

  const int64_t map = int64_t(g.out_height) * g.out_width;
#pragma unroll
  for (int i = 0; i < kMicro; ++i) {
    const int64_t to = first_position + row + 16 * i;
    if (to >= g.positions) continue;
    const int64_t image_at = to / map, pixel = to % map;
#pragma unroll
    for (int j = 0; j < kMicro; ++j) {
      const int o = first_output + column + 16 * j;
      if (o >= group_outputs) continue;
      const int64_t channel = int64_t(group) * group_outputs + o;
      output[(image_at * g.outputs + channel) * map + pixel] =
          sums[i][j] + (bias == nullptr ? T(0) : bias[channel]);
    }
  }
}

}  // namespace

template <typename T>
void launch_forward(const CudaLevel<T>& level, const T* weight, const T* bias, T* output) {
  const CudaGeometry& g = level.geometry;
  if (g.positions == 0) return;
  const int64_t tiles = (g.positions + kTileRows - 1) / kTileRows;
  const dim3 grid(tiles, (g.outputs / g.groups + kTileColumns - 1) / kTileColumns, g.groups);
  forward_kernel<T>
      <<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(level, weight, bias, output);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template void launch_forward<float>(const CudaLevel<float>&, const float*, const float*, float*);
template void launch_forward<double>(const CudaLevel<double>&, const double*, const double*,
                                     double*);

}  // namespace fa::deform
