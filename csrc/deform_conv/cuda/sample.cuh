// What the sampling kernels share: patches of positions, and the record of one tap at one position.
//
// A block works on a patch of 8 x 8 positions, whose samples overlap, and goes through slices of
// 128 bytes of channels: what a slice of a patch reads stays in L1. Its records, (tap, place of the
// patch) each, are computed once, in shared memory. A power-of-two part of a warp, its lanes side
// by side along the channels, handles one record.
#pragma once

#include "deform_conv/cuda/kernels.h"
#include "deform_conv/cuda/vector.cuh"
#include "deform_conv/math.h"

namespace fa::deform::cuda {

constexpr int kThreads = 256;
constexpr int kPatch = 8, kPlaces = kPatch * kPatch;
constexpr int kLaneBits = 3, kLanes = 1 << kLaneBits;  // of a record, at most: 128 bytes

// A position of a patch.
struct Place {
  uint32_t position;  // within the segment, or kNowhere where the patch reaches beyond it
  uint32_t image;     // within the block
  uint32_t y, x;      // of the output
};
constexpr uint32_t kNowhere = 0xffffffffu;

// Where a place's channels begin, in elements.
struct alignas(16) Begin {
  int64_t input;   // its image
  int64_t column;  // its row of columns, or -1 where the patch reaches beyond the segment
};

// What all lanes of a record need.
template <typename Sum>
struct alignas(16) Record {
  Sum weight[4];      // of the corners, times the mask
  int32_t corner[4];  // y * width + x, or -1 for one outside
};

// What only the thread that makes a record needs, in its registers.
template <typename Sum>
struct Point {
  Sum ly, lx, mask;
  int32_t top, left;  // of the first corner, as in BilinearPoint
};

template <typename T>
__device__ inline T* address(const Map<T>& map, uint32_t image, uint32_t channel, uint32_t y,
                             uint32_t x) {
  return map.data + image * map.image + channel * map.channel + y * map.row + x * map.column;
}

// Place [0, kPlaces) of a patch of the segment.
template <typename T>
__device__ inline Place place_of(const Samples<T>& s, uint32_t patch, uint32_t place) {
  const Geometry& g = s.geometry;
  uint32_t position;
  if (s.patches_across == 0) {
    position = patch * kPlaces + place;
  } else {
    const uint32_t row = patch / s.patches_across * kPatch + place / kPatch;
    const uint32_t column = patch % s.patches_across * kPatch + place % kPatch;
    position = column < uint32_t(g.out_width) ? row * g.out_width + column : kNowhere;
  }
  if (position >= s.positions.count) return {kNowhere, 0, 0, 0};
  const uint32_t map = uint32_t(g.out_height) * g.out_width;
  const uint32_t from_first = s.positions.first_pixel + position, pixel = from_first % map;
  return {position, s.positions.first_image + from_first / map, pixel / g.out_width,
          pixel % g.out_width};
}

// Channel of a tap in the mask; 2 * channel and the next one in the offsets.
__device__ inline uint32_t point_channel(const Geometry& g, uint32_t tap, uint32_t offset_group) {
  return offset_group * (g.kernel_h * g.kernel_w) + tap;
}

template <typename T, typename Sum = at::opmath_type<T>>
__device__ inline Point<Sum> locate(const Samples<T>& s, const Place& at, uint32_t tap,
                                    uint32_t offset_group, Record<Sum>* record) {
  const Geometry& g = s.geometry;
  const uint32_t channel = point_channel(g, tap, offset_group);
  const Sum dy = *address(s.offset, at.image, 2 * channel, at.y, at.x);
  const Sum dx = *address(s.offset, at.image, 2 * channel + 1, at.y, at.x);
  const int32_t row = tap / g.kernel_w, column = tap % g.kernel_w;
  const Sum y = Sum(int32_t(at.y) * g.stride_h - g.pad_h + row * g.dilation_h) + dy;
  const Sum x = Sum(int32_t(at.x) * g.stride_w - g.pad_w + column * g.dilation_w) + dx;
  Point<Sum> point;
  point.mask = Sum(1);
  if (s.mask.data != nullptr) {
    point.mask = *address(s.mask, at.image, channel, at.y, at.x);
    if (g.mask_is_logit) point.mask = Sum(1) / (Sum(1) + exp(-point.mask));
  }
  const BilinearPoint<Sum> corners = bilinear_point(y, x, g.height, g.width, -1);
  point.ly = corners.ly, point.lx = corners.lx;
  point.top = corners.top, point.left = corners.left;
  bilinear_weights(point.ly, point.lx, point.mask, record->weight);
#pragma unroll
  for (int k = 0; k < 4; ++k) record->corner[k] = corners.corner[k];
  return point;
}

// The places and the records of taps [first_tap, first_tap + kTaps) of a block's patch, (tap,
// place); the block waits until they are there. Returns how many of the taps there are. A thread
// makes those of one place, which takes divisions.
template <int kTaps, typename T, typename Sum = at::opmath_type<T>>
__device__ inline int make_records(const Samples<T>& s, uint32_t first_tap, uint32_t offset_group,
                                   Begin (&begins)[kPlaces],
                                   Record<Sum> (&records)[kTaps * kPlaces]) {
  const uint32_t all = s.geometry.kernel_h * s.geometry.kernel_w, left = all - first_tap;
  const int taps = left < kTaps ? left : kTaps, place = threadIdx.x % kPlaces;
  const Place at = place_of(s, blockIdx.x, place);
  const bool inside = at.position != kNowhere;
  if (threadIdx.x < kPlaces) {
    begins[place].input = at.image * s.input_image;
    begins[place].column = inside ? at.position * (int64_t(all) * s.geometry.channels) : -1;
  }
  for (int tap = threadIdx.x / kPlaces; inside && tap < taps; tap += kThreads / kPlaces)
    locate(s, at, first_tap + tap, offset_group, &records[tap * kPlaces + place]);
  __syncthreads();
  return taps;
}

// The records of one part of a warp, of `lanes` lanes: each place that it has, and its taps.
struct Part {
  int lanes, lane, parts, first;

  __device__ explicit Part(int lane_bits)
      : lanes(1 << lane_bits),
        lane(threadIdx.x & (lanes - 1)),
        parts(kThreads >> lane_bits),
        first(threadIdx.x >> lane_bits) {}
  __device__ int first_place() const { return first % kPlaces; }
  __device__ int first_tap() const { return first / kPlaces; }
  __device__ int tap_step() const { return parts > kPlaces ? parts / kPlaces : 1; }
};

// Where tap 0 of a channel stands in columns (P, G, T, C / G), at position 0; the taps are C / G
// apart, the positions T * C.
__device__ inline int64_t column_of(const Geometry& g, int32_t channel) {
  if (g.groups == 1) return channel;
  const int32_t group_channels = g.channels / g.groups, group = channel / group_channels;
  const int64_t taps_of_a_group = int64_t(g.kernel_h) * g.kernel_w * group_channels;
  return group * taps_of_a_group + channel % group_channels;
}

// The four corners' channels from `input` on, the place's image's first pixel; `pitch`: bytes of a
// pixel. One outside is 0, and 0 times a NaN weight stays NaN.
template <int kSize, typename T, typename Sum>
__device__ inline void load_corners(const T* input, uint32_t pitch, const Record<Sum>& record,
                                    Vector<T, kSize> (&corners)[4]) {
  const char* const bytes = reinterpret_cast<const char*>(input);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    corners[k] = Vector<T, kSize>();
    const int32_t corner = record.corner[k];
    if (corner >= 0)  // in one multiplication with a sum, of 32 bits to 64
      corners[k] = Vector<T, kSize>::load(
          reinterpret_cast<const T*>(bytes + uint64_t(uint32_t(corner)) * pitch));
  }
}

// The sample times the mask.
template <int kSize, typename Sum>
__device__ inline void add_corner(Sum weight, const Sum (&corner)[kSize], Sum (&sample)[kSize]) {
#pragma unroll
  for (int j = 0; j < kSize; ++j) sample[j] += weight * corner[j];
}

// Whether a lane takes 16 bytes at a time: where the channels of a group and of an offset group,
// the addresses and the images' distance allow it.
template <typename T>
inline bool takes_vectors(const Samples<T>& s, const void* columns) {
  constexpr int kSize = kVectorSize<T>;
  const Geometry& g = s.geometry;
  return g.channels / g.groups % kSize == 0 && g.channels / g.offset_groups % kSize == 0 &&
         s.input_image % kSize == 0 && reinterpret_cast<uintptr_t>(s.input) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(columns) % 16 == 0;
}

// Binary logarithm of the lanes that share a record with this many vectors of channels.
inline int lane_bits(int32_t vectors) {
  int bits = 0;
  while (bits < kLaneBits && (1 << bits) < vectors) ++bits;
  return bits;
}

// Of the segment.
template <typename T>
inline unsigned patch_count(const Samples<T>& s) {
  const int64_t count = s.positions.count;
  if (s.patches_across == 0) return static_cast<unsigned>((count + kPlaces - 1) / kPlaces);
  const int64_t rows = count / s.geometry.out_width;
  return static_cast<unsigned>((rows + kPatch - 1) / kPatch * s.patches_across);
}

}  // namespace fa::deform::cuda
