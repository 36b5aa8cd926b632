// The input's gradient through windows in shared memory. The samples of a patch meet in few pixels:
// a warp adds those of 32 channels, one a lane, to its own window of pixels around the patch,
// without atomics and without conflicts between banks, and the window once to memory. Samples
// beyond the window, 6 % of them with offsets of 2 pixels, go to memory one by one.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <cstdlib>
#include <cstring>

#include "common/device.h"
#include "deform_conv/cuda/sample.cuh"
#include "deform_conv/cuda/window.h"

namespace fa::deform::cuda {
namespace {

constexpr int kLanesOfWarp = 32;
// Rows and columns of a window: with the records 27,392 bytes, so that the 227 KB of an H100's
// multiprocessor hold 8 of them, as many as a chunk of 8192 positions of 256 channels has for each.
constexpr int kSide = 14;

// What one tap at one place adds to the four corners: weights times the mask, and pixels of the
// window, or kNone, or kFirst less the pixel of the sums.
struct alignas(16) Weights {
  float of[4];
};
struct alignas(16) Slots {
  int32_t of[4];
};
constexpr int32_t kNone = -1, kFirst = -2;

// Rows are counted through the images of the block, so that a patch over two of them has one
// window.
struct Window {
  int32_t top, left;
  // Rows whose sums count. Of a patch in one image those of the image: what is added for corners
  // outside of the map stays in the window, and needs no check.
  int32_t first_row, last_row;
  bool one_image;
};

// The kernel's reach over a patch, in pixels of the input, with the corner behind the last sample.
__host__ __device__ inline int32_t reach(int32_t stride, int32_t kernel, int32_t dilation) {
  return (kPatch - 1) * stride + (kernel - 1) * dilation + 2;
}

template <typename T>
__device__ inline Window window_of(const Samples<T>& s, uint32_t last_image) {
  const Geometry& g = s.geometry;
  const Place first = place_of(s, blockIdx.x, 0);  // of every patch there is
  const int32_t spare_y = kSide - reach(g.stride_h, g.kernel_h, g.dilation_h);
  const int32_t spare_x = kSide - reach(g.stride_w, g.kernel_w, g.dilation_w);
  Window window;
  window.top =
      int32_t(first.image) * g.height + int32_t(first.y) * g.stride_h - g.pad_h - (spare_y + 1) / 2;
  window.left = int32_t(first.x) * g.stride_w - g.pad_w - (spare_x + 1) / 2;
  window.first_row = int32_t(first.image) * g.height;
  window.last_row = int32_t(last_image + 1) * g.height - 1;
  window.one_image = first.image == last_image;
  return window;
}

// Returns the first corner's pixel of the window where the corners need no check, else -1.
template <typename T>
__device__ inline int32_t make_drop(const Samples<T>& s, const Window& window, const Place& at,
                                    uint32_t tap, uint32_t offset_group, Weights* weights,
                                    Slots* slots) {
  *weights = {}, *slots = {kNone, kNone, kNone, kNone};
  if (at.position == kNowhere) return -1;
  const Geometry& g = s.geometry;
  Record<float> record;
  const Point<float> point = locate(s, at, tap, offset_group, &record);
  if (point.top == kFar) return -1;
  const int32_t row = int32_t(at.image) * g.height + point.top;
  const int32_t y = row - window.top, x = point.left - window.left;
  bool all = true;  // in the map
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    weights->of[k] = record.weight[k];
    all &= record.corner[k] >= 0;
    if (record.corner[k] < 0) continue;
    const bool inside =
        uint32_t(y + k / 2) < uint32_t(kSide) && uint32_t(x + k % 2) < uint32_t(kSide);
    slots->of[k] =
        inside ? (y + k / 2) * kSide + x + k % 2
               : kFirst - int32_t(at.image * uint32_t(g.height * g.width) + record.corner[k]);
  }
  const bool inside = uint32_t(y) < uint32_t(kSide - 1) && uint32_t(x) < uint32_t(kSide - 1);
  return inside && (all || window.one_image) ? y * kSide + x : -1;
}

// Grid (patches, slices of 32 channels of the offset groups), blocks of one warp. kVectors: the
// window goes to memory by additions of four floats, else of one.
template <typename T, bool kVectors>
__global__ void __launch_bounds__(kLanesOfWarp)
    window_kernel(const Samples<T> s, uint32_t slices, float* __restrict__ sums,
                  const T* __restrict__ columns) {
  __shared__ float pixels[kSide * kSide][kLanesOfWarp];
  __shared__ Weights weights[kPlaces];
  __shared__ Slots slots[kPlaces];
  // Of each place, as most are: the first corner's pixel where the corners need no check; else -1.
  __shared__ Slots starts[kPlaces / 4];
  const Geometry& g = s.geometry;
  const int lane = threadIdx.x;
  const int32_t group_channels = g.channels / g.offset_groups;
  const uint32_t offset_group = blockIdx.y / slices;
  const int32_t begin = blockIdx.y % slices * kLanesOfWarp;  // within the offset group
  const bool active = begin + lane < group_channels;
  const int32_t first_channel = offset_group * group_channels + begin,
                channel = first_channel + lane;
  float* const mine = &pixels[0][lane];
  for (int i = 0; i < kSide * kSide; ++i) mine[i * kLanesOfWarp] = 0.f;
  // A lane makes the drops of two places, in the upper and in the lower half of the patch.
  const Place places[2] = {place_of(s, blockIdx.x, lane),
                           place_of(s, blockIdx.x, lane + kLanesOfWarp)};
  uint32_t last_image = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (places[half].position != kNowhere) last_image = places[half].image;
  }
  for (int distance = kLanesOfWarp / 2; distance > 0; distance /= 2)
    last_image = max(last_image, __shfl_xor_sync(0xffffffffu, last_image, distance));
  const Window window = window_of(s, last_image);
  // Places in the order of the segment's rows: a row of the patch is consecutive.
  const uint32_t row = blockIdx.x / s.patches_across * kPatch;
  const uint32_t column = blockIdx.x % s.patches_across * kPatch;
  const int64_t pitch = int64_t(g.kernel_h) * g.kernel_w * g.channels;
  const T* const of_channel = columns + (active ? column_of(g, channel) : 0) +
                              (int64_t(row) * g.out_width + column) * pitch;
  const uint32_t rows = min(uint32_t(kPatch), s.positions.count / g.out_width - row);
  const uint32_t across = min(uint32_t(kPatch), g.out_width - column);
  const uint32_t taps = g.kernel_h * g.kernel_w;
  for (uint32_t tap = 0; tap < taps; ++tap) {
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = lane + half * kLanesOfWarp;
      starts[place / 4].of[place % 4] =
          make_drop(s, window, places[half], tap, offset_group, &weights[place], &slots[place]);
    }
    __syncwarp();
    const T* from = of_channel + int64_t(tap) * (g.channels / g.groups);
    T next[kPatch] = {};
    const auto load = [&](const T* row_begin) {
#pragma unroll
      for (int x = 0; x < kPatch; ++x)
        next[x] = active && uint32_t(x) < across ? row_begin[x * pitch] : T(0.f);
    };
    load(from);
    for (uint32_t y = 0; y < rows; ++y) {
      float grad[kPatch];
#pragma unroll
      for (int x = 0; x < kPatch; ++x) grad[x] = float(next[x]);
      from += g.out_width * pitch;
      if (y + 1 < rows) load(from);  // on its way while this row is added
      // Of a row at a time, so that no addition waits for them.
      Weights weight[kPatch];
      Slots start[kPatch / 4];
#pragma unroll
      for (int x = 0; x < kPatch; ++x) weight[x] = weights[y * kPatch + x];
#pragma unroll
      for (int x = 0; x < kPatch / 4; ++x) start[x] = starts[y * (kPatch / 4) + x];
#pragma unroll
      for (int x = 0; x < kPatch; ++x) {
        const int32_t first = start[x / 4].of[x % 4];
        if (first >= 0) {
          float* const at = mine + first * kLanesOfWarp;
          float sum[4] = {at[0], at[kLanesOfWarp], at[kSide * kLanesOfWarp],
                          at[(kSide + 1) * kLanesOfWarp]};
#pragma unroll
          for (int k = 0; k < 4; ++k) sum[k] += weight[x].of[k] * grad[x];
          at[0] = sum[0], at[kLanesOfWarp] = sum[1];
          at[kSide * kLanesOfWarp] = sum[2], at[(kSide + 1) * kLanesOfWarp] = sum[3];
          continue;
        }
        const Slots& of_corners = slots[y * kPatch + x];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int32_t slot = of_corners.of[k];
          const float value = weight[x].of[k] * grad[x];
          if (slot >= 0) mine[slot * kLanesOfWarp] += value;
          if (slot <= kFirst && active)
            atomicAdd(sums + int64_t(kFirst - slot) * g.channels + channel, value);
        }
      }
    }
  }
  __syncwarp();
  // Pixels that no sample met are 0.
  const auto counts = [&](int i) {
    const int32_t row = window.top + i / kSide, column = window.left + i % kSide;
    return row >= window.first_row && row <= window.last_row &&
           uint32_t(column) < uint32_t(g.width);
  };
  if constexpr (kVectors) {
    constexpr int kAcross = kLanesOfWarp / 4;  // lanes of a pixel
    const int part = lane % kAcross * 4;
    if (begin + part >= group_channels) return;
    constexpr int kAtOnce = kLanesOfWarp / kAcross;
    static_assert(kSide * kSide % (7 * kAtOnce) == 0);
#pragma unroll 7
    for (int round = 0; round < kSide * kSide / kAtOnce; ++round) {
      const int i = lane / kAcross + round * kAtOnce;
      float value[4];
      bool any = false;
#pragma unroll
      for (int j = 0; j < 4; ++j) value[j] = pixels[i][part + j], any |= value[j] != 0.f;
      const int64_t pixel = int64_t(window.top + i / kSide) * g.width + window.left + i % kSide;
      if (any && counts(i))
        fa::cuda::add_vector(sums + pixel * g.channels + first_channel + part, value);
    }
  } else {
    for (int i = 0; i < kSide * kSide; ++i) {
      const float value = mine[i * kLanesOfWarp];
      const int64_t pixel = int64_t(window.top + i / kSide) * g.width + window.left + i % kSide;
      if (active && value != 0.f && counts(i))
        atomicAdd(sums + pixel * g.channels + channel, value);
    }
  }
}

template <typename T, bool kVectors>
void launch(const Samples<T>& s, float* sums, const T* columns) {
  const Geometry& g = s.geometry;
  const uint32_t slices = (g.channels / g.offset_groups + kLanesOfWarp - 1) / kLanesOfWarp;
  const dim3 grid(patch_count(s), slices * g.offset_groups);
  // All of the multiprocessor's shared memory: the kernel reads little through its L1 cache.
  C10_CUDA_CHECK(cudaFuncSetAttribute(window_kernel<T, kVectors>,
                                      cudaFuncAttributePreferredSharedMemoryCarveout, 100));
  window_kernel<T, kVectors>
      <<<grid, kLanesOfWarp, 0, at::cuda::getCurrentCUDAStream()>>>(s, slices, sums, columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
bool fits_window(const Samples<T>& s) {
  const Geometry& g = s.geometry;
  const int64_t slices = (g.channels / g.offset_groups + kLanesOfWarp - 1) / kLanesOfWarp;
  // Pixels of the block are counted in 32 bits here.
  const int64_t images =
      s.positions.first_image + 2 + s.positions.count / (int64_t(g.out_height) * g.out_width);
  if (s.patches_across == 0 || slices * g.offset_groups > 65535 ||
      images * g.height * g.width > (int64_t{1} << 31) - 4)
    return false;
  const char* const choice = std::getenv("FA_CUDA_SCATTER");
  if (choice != nullptr && *choice != 0) {
    const bool window = !std::strcmp(choice, "window");
    TORCH_CHECK_VALUE(window || !std::strcmp(choice, "memory"), "FA_CUDA_SCATTER is ", choice,
                      ", must be window or memory");
    return window;
  }
  return reach(g.stride_h, g.kernel_h, g.dilation_h) <= kSide - 1 &&
         reach(g.stride_w, g.kernel_w, g.dilation_w) <= kSide - 1 &&
         fa::cuda::shared_memory_of_multiprocessor() >= size_t{160} << 10;
}

template <typename T>
void launch_window(const Samples<T>& samples, float* sums, const T* columns) {
  const bool vectors = samples.geometry.channels / samples.geometry.offset_groups % 4 == 0 &&
                       reinterpret_cast<uintptr_t>(sums) % 16 == 0;
  if (vectors && fa::cuda::has_vector_additions()) return launch<T, true>(samples, sums, columns);
  launch<T, false>(samples, sums, columns);
}

#define FA_INSTANTIATE(T)                          \
  template bool fits_window<T>(const Samples<T>&); \
  template void launch_window<T>(const Samples<T>&, float*, const T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(c10::Half)
FA_INSTANTIATE(c10::BFloat16)

}  // namespace fa::deform::cuda
