// What the sampling kernels share: the record of one tap at one position, and vectors of channels.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cuda/deform_kernels.h"
#include "math/bilinear.h"

namespace fa::deform::cuda {

// A block works on kRecords consecutive records, (position, tap, offset group) each: 14 positions
// of a 3x3 kernel, whose footprints overlap and stay in L1. A power-of-two part of a warp handles
// one record, its lanes side by side along the channels.
constexpr int kThreads = 256;
constexpr int kRecords = 128;
// At least this many blocks a multiprocessor: 32 warps hide the latency of the corners' loads.
constexpr int kBlocks = 4;

// One access of sizeof(T) * kSize bytes.
template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Vector {
  T value[kSize];
};

// What all lanes of a record need, in shared memory: computed once, not once a channel.
template <typename Sum>
struct alignas(16) Record {
  Sum weight[4];          // of the corners, times the mask
  int32_t corner[4];      // y * width + x, or -1 for one outside
  int64_t column;         // of its position and tap: index of the first group's first channel
  int32_t image;          // within the block
  int32_t first_channel;  // of its offset group
};

// What only the thread that writes a record's point gradients needs, in its registers.
template <typename Sum>
struct Point {
  Sum ly, lx, mask;
  uint32_t image, y, x, channel;  // channel of the mask; 2 channel and the next one of the offsets
};

template <typename T>
__device__ inline T* address(const Map<T>& map, uint32_t image, uint32_t channel, uint32_t y,
                             uint32_t x) {
  return map.data + image * map.image + channel * map.channel + y * map.row + x * map.column;
}

__device__ inline uint32_t record_count(const Geometry& g, const Positions& positions) {
  return positions.count * g.kernel_h * g.kernel_w * g.offset_groups;
}

template <typename T, typename Sum = at::opmath_type<T>>
__device__ inline Point<Sum> locate(const Samples<T>& s, uint32_t index, Record<Sum>* record) {
  const Geometry& g = s.geometry;
  const uint32_t taps = g.kernel_h * g.kernel_w, records = taps * g.offset_groups;
  const uint32_t position = index / records, rest = index % records;
  const uint32_t tap = rest / g.offset_groups, offset_group = rest % g.offset_groups;
  const uint32_t map = uint32_t(g.out_height) * g.out_width;
  const uint32_t from_first = s.positions.first_pixel + position, pixel = from_first % map;
  Point<Sum> at;
  at.image = s.positions.first_image + from_first / map;
  at.y = pixel / g.out_width, at.x = pixel % g.out_width;
  at.channel = offset_group * taps + tap;
  const Sum dy = *address(s.offset, at.image, 2 * at.channel, at.y, at.x);
  const Sum dx = *address(s.offset, at.image, 2 * at.channel + 1, at.y, at.x);
  const int32_t row = tap / g.kernel_w, column = tap % g.kernel_w;
  const Sum y = Sum(int32_t(at.y) * g.stride_h - g.pad_h + row * g.dilation_h) + dy;
  const Sum x = Sum(int32_t(at.x) * g.stride_w - g.pad_w + column * g.dilation_w) + dx;
  at.mask = Sum(1);
  if (s.mask.data != nullptr) {
    at.mask = *address(s.mask, at.image, at.channel, at.y, at.x);
    if (g.mask_is_logit) at.mask = Sum(1) / (Sum(1) + exp(-at.mask));
  }
  const BilinearPoint<Sum> point = bilinear_point(y, x, g.height, g.width, -1);
  at.ly = point.ly, at.lx = point.lx;
  bilinear_weights(point.ly, point.lx, at.mask, record->weight);
#pragma unroll
  for (int k = 0; k < 4; ++k) record->corner[k] = point.corner[k];
  const int32_t group_channels = g.channels / g.groups;
  record->column = (int64_t(position) * g.groups * taps + tap) * group_channels;
  record->image = at.image;
  record->first_channel = offset_group * (g.channels / g.offset_groups);
  return at;
}

// Where a record's channel stands in columns (P, G, T, C / G).
template <typename Sum>
__device__ inline int64_t column_index(const Geometry& g, const Record<Sum>& record,
                                       int32_t channel) {
  if (g.groups == 1) return record.column + channel;
  const int32_t group_channels = g.channels / g.groups, group = channel / group_channels;
  const int64_t taps_of_a_group = int64_t(g.kernel_h) * g.kernel_w * group_channels;
  return record.column + group * taps_of_a_group + channel % group_channels;
}

// The four corners' channels [channel, channel + kSize). One outside is 0, and 0 times a NaN weight
// stays NaN.
template <int kSize, typename T, typename Sum>
__device__ inline void load_corners(const Samples<T>& s, const Record<Sum>& record, int32_t channel,
                                    Vector<T, kSize> corners[4]) {
  const T* image = s.input + record.image * s.input_image + channel;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    corners[k] = Vector<T, kSize>{};
    if (record.corner[k] >= 0) {
      corners[k] = *reinterpret_cast<const Vector<T, kSize>*>(image + int64_t(record.corner[k]) *
                                                                          s.geometry.channels);
    }
  }
}

// The sample times the mask.
template <int kSize, typename T, typename Sum>
__device__ inline Vector<T, kSize> blend(const Record<Sum>& record,
                                         const Vector<T, kSize> corners[4]) {
  Vector<T, kSize> column;
#pragma unroll
  for (int j = 0; j < kSize; ++j) {
    Sum sum = record.weight[0] * Sum(corners[0].value[j]);
#pragma unroll
    for (int k = 1; k < 4; ++k) sum += record.weight[k] * Sum(corners[k].value[j]);
    column.value[j] = T(sum);
  }
  return column;
}

// Channels that a lane takes at a time: 16 bytes where the channels of a group and of an offset
// group, the addresses and the images' distance allow it, else one.
template <typename T>
inline bool takes_vectors(const Samples<T>& s) {
  constexpr int kSize = 16 / sizeof(T);
  const Geometry& g = s.geometry;
  return g.channels / g.groups % kSize == 0 && g.channels / g.offset_groups % kSize == 0 &&
         s.input_image % kSize == 0 && reinterpret_cast<uintptr_t>(s.input) % 16 == 0;
}

// Binary logarithm of the lanes that share a record with this many vectors of channels.
inline int lane_bits(int32_t vectors) {
  int bits = 0;
  while (bits < 5 && (1 << bits) < vectors) ++bits;
  return bits;
}

inline unsigned record_blocks(const Geometry& g, const Positions& positions) {
  const int64_t records = int64_t(positions.count) * g.kernel_h * g.kernel_w * g.offset_groups;
  return static_cast<unsigned>((records + kRecords - 1) / kRecords);
}

}  // namespace fa::deform::cuda
