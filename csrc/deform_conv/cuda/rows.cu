// Copies between maps of any strides and rows (positions, channels), through tiles in shared memory
// so that both sides are accessed along their contiguous dimension: 16 bytes at a time where planes
// and addresses allow it, else an element. Which pixel a position is takes divisions; a thread, or
// the first ones for the block, make them once.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "deform_conv/cuda/sample.cuh"
#include "deform_conv/cuda/tile.cuh"

namespace fa::deform::cuda {
namespace {

template <typename T>
__device__ inline T* pixel_address(const Map<T>& map, const Positions& positions, int32_t height,
                                   int32_t width, uint32_t position) {
  const uint32_t pixels = uint32_t(height) * width, from_first = positions.first_pixel + position;
  const uint32_t pixel = from_first % pixels;
  return address(map, positions.first_image + from_first / pixels, 0, pixel / width, pixel % width);
}

// A sum of the input's gradient as a number; rows of the map's own type have no scale.
template <typename T, typename From>
__device__ inline at::opmath_type<T> unscaled(From value, const at::opmath_type<T>* fixed) {
  // In the compute type: 24 digits of a sum's 62 are more than the result keeps, and double
  // arithmetic is slow on most devices. The scale is a power of two.
  using Sum = at::opmath_type<T>;
  if constexpr (std::is_same_v<From, int64_t>) {
    return static_cast<Sum>(value) / fixed[0] + fixed[1];
  } else {
    return static_cast<Sum>(value);
  }
}

// ---- vectors: the positions of a channel lie side by side

template <typename T>
__global__ void __launch_bounds__(kThreads)
    planes_to_rows_kernel(const Map<const T> map, int32_t channels, int32_t height, int32_t width,
                          const Positions positions, T* __restrict__ rows) {
  constexpr int kSize = Tile<T>::kSize, kSide = Tile<T>::kSide;
  __shared__ Tile<T> tile;  // (channels, positions)
  const uint32_t first = blockIdx.x * kSide;
  const int vector = threadIdx.x % kVectors, begin = threadIdx.x / kVectors;
  const uint32_t position = first + vector * kSize;
  const bool inside = position < positions.count;
  const T* from = map.data;
  if (inside) from = pixel_address(map, positions, height, width, position);
  for (int64_t c = blockIdx.y * int64_t(kSide); c < channels; c += gridDim.y * int64_t(kSide)) {
#pragma unroll
    for (int step = 0; step < Tile<T>::kSteps; ++step) {
      const int line = begin + step * kLinesAtOnce;
      if (inside && is_line<T>(line) && c + line < channels) {
        tile.set(line, vector, Vector<T, kSize>::load(from + (c + line) * map.channel));
      }
    }
    __syncthreads();
    const int64_t channel = c + vector * kSize;
#pragma unroll
    for (int step = 0; step < Tile<T>::kSteps; ++step) {
      const int line = begin + step * kLinesAtOnce;
      if (is_line<T>(line) && first + line < positions.count && channel < channels) {
        tile.column(line, vector).store(rows + int64_t(first + line) * channels + channel);
      }
    }
    __syncthreads();
  }
}

template <typename From, typename T>
__global__ void __launch_bounds__(kThreads)
    rows_to_planes_kernel(const From* __restrict__ rows,
                          const at::opmath_type<T>* __restrict__ fixed, int32_t channels,
                          int32_t height, int32_t width, const Positions positions,
                          const Map<T> map) {
  constexpr int kSize = Tile<T>::kSize, kSide = Tile<T>::kSide;
  __shared__ Tile<T> tile;  // (positions, channels)
  const uint32_t first = blockIdx.x * kSide;
  const int vector = threadIdx.x % kVectors, begin = threadIdx.x / kVectors;
  const uint32_t position = first + vector * kSize;
  const bool inside = position < positions.count;
  T* to = map.data;
  if (inside) to = pixel_address(map, positions, height, width, position);
  for (int64_t c = blockIdx.y * int64_t(kSide); c < channels; c += gridDim.y * int64_t(kSide)) {
    const int64_t channel = c + vector * kSize;
#pragma unroll
    for (int step = 0; step < Tile<T>::kSteps; ++step) {
      const int line = begin + step * kLinesAtOnce;
      if (!is_line<T>(line) || first + line >= positions.count || channel >= channels) continue;
      const From* const from = rows + int64_t(first + line) * channels + channel;
      Vector<T, kSize> entries;
      if constexpr (std::is_same_v<From, T>) {
        entries = Vector<T, kSize>::load(from);
      } else {
        at::opmath_type<T> values[kSize];
        constexpr int kRead = kVectorSize<From>;
#pragma unroll
        for (int j = 0; j < kSize; j += kRead) {
          From read[kRead];
          const uint4 words = fa::cuda::load_vector(from + j);
          memcpy(read, &words, sizeof(words));
#pragma unroll
          for (int i = 0; i < kRead; ++i) values[j + i] = unscaled<T>(read[i], fixed);
        }
        entries = Vector<T, kSize>::pack(values);
      }
      tile.set(line, vector, entries);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < Tile<T>::kSteps; ++step) {
      const int line = begin + step * kLinesAtOnce;
      if (inside && is_line<T>(line) && c + line < channels) {
        tile.column(line, vector).store(to + (c + line) * map.channel);
      }
    }
    __syncthreads();
  }
}

// Whether vectors of 16 bytes of T are vectors of positions of the map and of channels of the rows.
template <typename T>
bool are_planes_of_vectors(const Map<T>& map, int32_t channels, int32_t height, int32_t width,
                           const Positions& positions, const void* rows) {
  constexpr int kSize = kVectorSize<T>;
  const auto whole = [](int64_t value) { return value % kSize == 0; };
  const auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
  return map.column == 1 && map.row == width && whole(int64_t(height) * width) &&
         whole(map.channel) && whole(map.image) && whole(positions.first_pixel) &&
         whole(positions.count) && whole(channels) && aligned(map.data) && aligned(rows);
}

// ---- single elements

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

// write(pixel, position, channel, read(pixel, position, channel)) for every entry, through a tile,
// so that either side goes along its contiguous dimension; `pixel` is the position's address in the
// map. Grid (tiles of positions, tiles of channels), the second one looped over.
template <typename T, typename M, typename Read, typename Write>
__device__ inline void move_tiles(const Map<M>& map, int32_t height, int32_t width,
                                  const Positions& positions, int32_t channels,
                                  bool read_along_channels, bool write_along_channels, Read read,
                                  Write write) {
  __shared__ T tile[kTile][kTile + 1];  // (positions, channels)
  using Pixel = M*;
  __shared__ Pixel pixels[kTile];
  const uint32_t first = blockIdx.x * kTile;
  if (threadIdx.y == 0 && first + threadIdx.x < positions.count) {
    pixels[threadIdx.x] = pixel_address(map, positions, height, width, first + threadIdx.x);
  }
  __syncthreads();
  for (int64_t begin = blockIdx.y * int64_t(kTile); begin < channels;
       begin += gridDim.y * int64_t(kTile)) {
#pragma unroll
    for (int step = 0; step < kTile / kLines; ++step) {
      const Entry e = entry(read_along_channels, step);
      if (first + e.position < positions.count && begin + e.channel < channels) {
        tile[e.position][e.channel] =
            read(pixels[e.position], first + e.position, begin + e.channel);
      }
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kTile / kLines; ++step) {
      const Entry e = entry(write_along_channels, step);
      if (first + e.position < positions.count && begin + e.channel < channels) {
        write(pixels[e.position], first + e.position, begin + e.channel,
              tile[e.position][e.channel]);
      }
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kTile* kLines)
    to_rows_kernel(const Map<const T> map, int32_t channels, int32_t height, int32_t width,
                   const Positions positions, T* __restrict__ rows) {
  const auto read = [&](const T* pixel, uint32_t, int64_t channel) {
    return pixel[channel * map.channel];
  };
  const auto write = [&](const T*, uint32_t position, int64_t channel, T value) {
    rows[int64_t(position) * channels + channel] = value;
  };
  move_tiles<T>(map, height, width, positions, channels, map.channel == 1, true, read, write);
}

template <typename From, typename T>
__global__ void __launch_bounds__(kTile* kLines)
    from_rows_kernel(const From* __restrict__ rows, const at::opmath_type<T>* __restrict__ fixed,
                     int32_t channels, int32_t height, int32_t width, const Positions positions,
                     const Map<T> map) {
  const auto read = [&](T*, uint32_t position, int64_t channel) {
    const From value = rows[int64_t(position) * channels + channel];
    if constexpr (std::is_same_v<From, T>) {
      return value;
    } else {
      return T(unscaled<T>(value, fixed));
    }
  };
  const auto write = [&](T* pixel, uint32_t, int64_t channel, T value) {
    pixel[channel * map.channel] = value;
  };
  move_tiles<T>(map, height, width, positions, channels, true, map.channel == 1, read, write);
}

dim3 tiles(const Positions& positions, int32_t channels, int side) {
  const unsigned of_channels = (int64_t(channels) + side - 1) / side;
  return dim3((positions.count + side - 1) / side, of_channels < 65535 ? of_channels : 65535);
}

}  // namespace

template <typename T>
void launch_to_rows(const Map<const T>& map, int32_t channels, int32_t height, int32_t width,
                    const Positions& positions, T* rows) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  if (are_planes_of_vectors(map, channels, height, width, positions, rows)) {
    const dim3 grid = tiles(positions, channels, Tile<T>::kSide);
    planes_to_rows_kernel<T>
        <<<grid, kThreads, 0, stream>>>(map, channels, height, width, positions, rows);
  } else {
    const dim3 grid = tiles(positions, channels, kTile), block(kTile, kLines);
    to_rows_kernel<T><<<grid, block, 0, stream>>>(map, channels, height, width, positions, rows);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename From, typename T>
void launch_from_rows(const From* rows, const at::opmath_type<T>* fixed, int32_t channels,
                      int32_t height, int32_t width, const Positions& positions,
                      const Map<T>& map) {
  const auto stream = at::cuda::getCurrentCUDAStream();
  if (are_planes_of_vectors(map, channels, height, width, positions, rows)) {
    const dim3 grid = tiles(positions, channels, Tile<T>::kSide);
    rows_to_planes_kernel<From, T>
        <<<grid, kThreads, 0, stream>>>(rows, fixed, channels, height, width, positions, map);
  } else {
    const dim3 grid = tiles(positions, channels, kTile), block(kTile, kLines);
    from_rows_kernel<From, T>
        <<<grid, block, 0, stream>>>(rows, fixed, channels, height, width, positions, map);
  }
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
