// Copies between maps of any strides and rows (positions, channels), through tiles in shared memory
// so that both sides are accessed along their contiguous dimension.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "cuda/deform_sample.cuh"

namespace fa::deform::cuda {
namespace {

constexpr int kTile = 32;  // positions and channels of a tile
constexpr int kLines = 8;  // of threads: kTile / kLines elements a thread

// The tile's entry, (position, channel), of a thread's step: neighbouring threads lie side by side
// along the channels or along the positions.
struct Entry {
  int position, channel;
};
__device__ inline Entry entry(bool along_channels, int step) {
  const int line = threadIdx.y + step * kLines, x = threadIdx.x;
  return along_channels ? Entry{line, x} : Entry{x, line};
}

template <typename T>
__device__ inline T* pixel_address(const Map<T>& map, const Positions& positions, int32_t height,
                                   int32_t width, uint32_t position) {
  const uint32_t pixels = uint32_t(height) * width, from_first = positions.first_pixel + position;
  const uint32_t pixel = from_first % pixels;
  return address(map, positions.first_image + from_first / pixels, 0, pixel / width, pixel % width);
}

template <typename T, typename From>
__device__ inline T converted(From value, const at::opmath_type<T>* fixed) {
  // Through the compute type: 24 digits of a sum's 62 are more than the result keeps, and double
  // arithmetic is slow on most devices. The scale is a power of two.
  if (fixed != nullptr) {
    using Sum = at::opmath_type<T>;
    return T(static_cast<Sum>(value) / fixed[0] + fixed[1]);
  }
  return static_cast<T>(value);
}

// write(position, channel, read(position, channel)) for every entry, through a tile, so that either
// side goes along its contiguous dimension. Grid (tiles of positions, tiles of channels), the
// second one looped over.
template <typename T, typename Read, typename Write>
__device__ inline void move_tiles(uint32_t positions, int32_t channels, bool read_along_channels,
                                  bool write_along_channels, Read read, Write write) {
  __shared__ T tile[kTile][kTile + 1];  // (positions, channels)
  const uint32_t first = blockIdx.x * kTile;
  for (int64_t begin = blockIdx.y * int64_t(kTile); begin < channels;
       begin += gridDim.y * int64_t(kTile)) {
#pragma unroll
    for (int step = 0; step < kTile / kLines; ++step) {
      const Entry e = entry(read_along_channels, step);
      if (first + e.position < positions && begin + e.channel < channels)
        tile[e.position][e.channel] = read(first + e.position, begin + e.channel);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kTile / kLines; ++step) {
      const Entry e = entry(write_along_channels, step);
      if (first + e.position < positions && begin + e.channel < channels)
        write(first + e.position, begin + e.channel, tile[e.position][e.channel]);
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kTile* kLines)
    to_rows_kernel(const Map<const T> map, int32_t channels, int32_t height, int32_t width,
                   const Positions positions, T* __restrict__ rows) {
  const auto read = [&](uint32_t position, int64_t channel) {
    return pixel_address(map, positions, height, width, position)[channel * map.channel];
  };
  const auto write = [&](uint32_t position, int64_t channel, T value) {
    rows[int64_t(position) * channels + channel] = value;
  };
  move_tiles<T>(positions.count, channels, map.channel == 1, true, read, write);
}

template <typename From, typename T>
__global__ void __launch_bounds__(kTile* kLines)
    from_rows_kernel(const From* __restrict__ rows, const at::opmath_type<T>* __restrict__ fixed,
                     int32_t channels, int32_t height, int32_t width, const Positions positions,
                     const Map<T> map) {
  const auto read = [&](uint32_t position, int64_t channel) {
    return converted<T>(rows[int64_t(position) * channels + channel], fixed);
  };
  const auto write = [&](uint32_t position, int64_t channel, T value) {
    pixel_address(map, positions, height, width, position)[channel * map.channel] = value;
  };
  move_tiles<T>(positions.count, channels, true, map.channel == 1, read, write);
}

dim3 tiles(const Positions& positions, int32_t channels) {
  const unsigned of_channels = (int64_t(channels) + kTile - 1) / kTile;
  return dim3((positions.count + kTile - 1) / kTile, of_channels < 65535 ? of_channels : 65535);
}

}  // namespace

template <typename T>
void launch_to_rows(const Map<const T>& map, int32_t channels, int32_t height, int32_t width,
                    const Positions& positions, T* rows) {
  const dim3 grid = tiles(positions, channels), block(kTile, kLines);
  to_rows_kernel<T><<<grid, block, 0, at::cuda::getCurrentCUDAStream()>>>(map, channels, height,
                                                                          width, positions, rows);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename From, typename T>
void launch_from_rows(const From* rows, const at::opmath_type<T>* fixed, int32_t channels,
                      int32_t height, int32_t width, const Positions& positions,
                      const Map<T>& map) {
  const dim3 grid = tiles(positions, channels), block(kTile, kLines);
  from_rows_kernel<From, T><<<grid, block, 0, at::cuda::getCurrentCUDAStream()>>>(
      rows, fixed, channels, height, width, positions, map);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define FA_INSTANTIATE_FROM(From, T)                                                       \
  template void launch_from_rows<From, T>(const From*, const at::opmath_type<T>*, int32_t, \
                                          int32_t, int32_t, const Positions&, const Map<T>&);
#define FA_INSTANTIATE(T)                                                         \
  template void launch_to_rows<T>(const Map<const T>&, int32_t, int32_t, int32_t, \
                                  const Positions&, T*);                          \
  FA_INSTANTIATE_FROM(T, T)                                                       \
  FA_INSTANTIATE_FROM(int64_t, T)
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)
FA_INSTANTIATE(c10::Half)
FA_INSTANTIATE(c10::BFloat16)
FA_INSTANTIATE_FROM(float, c10::Half)
FA_INSTANTIATE_FROM(float, c10::BFloat16)

}  // namespace fa::deform::cuda
