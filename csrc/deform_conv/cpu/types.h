// What the CPU kernels of deform_conv2d work on, in plain data: they are compiled once an
// instruction set and must not include ATen (an inline function of it compiled for AVX-512 could be
// linked into the code for every processor).
//
// Legend: C channels, O outputs, T taps of the kernel, D offset groups, P positions of the output
// map, K rows of a column block. A channel block is up to kChannelBlock channels of one conv group
// and one offset group.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace fa::deform {

constexpr int kChannelBlock = 32;                   // channels that lie side by side in a plane
constexpr int kTapBlock = 9;                        // taps of one column block
constexpr int kColumn = kChannelBlock * kTapBlock;  // row length of a column tile
constexpr int kTile = 132;  // most positions of a tile; a multiple of every kernel's row count
constexpr int kPad = 12;    // tiles are padded to a multiple of this

struct Geometry {
  int32_t channels, outputs, groups, offset_groups;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  bool mask_is_logit;
  FA_INLINE int32_t taps() const { return kernel_h * kernel_w; }
  FA_INLINE int32_t tap_blocks() const { return (taps() + kTapBlock - 1) / kTapBlock; }
  FA_INLINE int32_t group_outputs() const { return outputs / groups; }
};

// A map seen as (channel, pixel): the pixels of its rows follow each other at one stride.
template <typename T>
struct View {
  T* data;
  int64_t channel_stride, pixel_stride;
};

// One image of one level. Outside forward, `output` is the gradient that comes in.
template <typename T>
struct Map {
  int32_t height, width, out_height, out_width;
  View<const T> input, offset, mask;  // mask.data is null where there is none
  View<T> output, grad_input, grad_offset, grad_mask;
  int32_t tiles, tile_size;
  FA_INLINE int32_t pixels() const { return height * width; }
  FA_INLINE int32_t positions() const { return out_height * out_width; }
  FA_INLINE int32_t tile_begin(int32_t tile) const { return tile * tile_size; }
  FA_INLINE int32_t tile_count(int32_t tile) const {
    const int32_t rest = positions() - tile_begin(tile);
    return rest < tile_size ? rest : tile_size;
  }
};

struct ChannelBlock {
  int32_t channel, channels, group, offset_group;
};

// Where a tap of a position samples: the corners with their weights times the mask (1 without), the
// place between them.
template <typename T>
struct Sample {
  T weight[4];
  int32_t corner[4];
  T ly, lx, mask;
};

// Work of one thread in backward: the tiles [tile_begin, tile_end) of a map, for one channel block.
// Pixel rows of the planes have kChannelBlock channels; row `pixels()` of `plane` is 0 and stands
// for what lies outside.
template <typename T>
struct BackwardUnit {
  const Map<T>* map;
  const T* plane;        // (pixels + 1, kChannelBlock)
  const T* grad_output;  // (tiles, panels of the group's outputs, tile rows, panel width)
  int64_t grad_tile_stride;
  const T* weight;           // this channel block's, packed by pack_weight_backward
  const Sample<T>* samples;  // (T, P) of this offset group
  T* grad_plane;  // (last_pixel - first_pixel + 1, kChannelBlock), the last row is for what lies
                  // outside; or null
  int32_t first_pixel, last_pixel;
  T* grad_weight;  // packed as by pack_weight_forward, added to; or null
  T* grad_points;  // (3T, P): by y, x and mask (or its logit) of each tap; or null
  int32_t tile_begin, tile_end;
};

// The functions of one instruction set.
template <typename T>
struct Kernels {
  int panel;  // outputs side by side in a register panel
  int rows;   // rows that the matrix product computes at once

  // (C, pixels) -> (pixels + 1, kChannelBlock) with a last row of 0, channels beyond the block's 0.
  void (*pack_input)(const View<const T>& input, const ChannelBlock& block, int64_t pixels,
                     T* plane);
  // The mask-folded product of one tile: all blocks, all outputs, bias added.
  void (*forward_tile)(const Geometry& geometry, const Map<T>& map, const ChannelBlock* blocks,
                       int num_blocks, const T* const* planes, const T* weight, const T* bias,
                       int tile, T* scratch);
  // One tile of the incoming gradient as (groups, panels, tile rows, panel width), zeros where
  // there is no output.
  void (*pack_grad)(const Geometry& geometry, const Map<T>& map, int tile, T* packed);
  void (*locate)(const Geometry& geometry, const Map<T>& map, int offset_group, int tap_begin,
                 int tap_end, int position_begin, int count, Sample<T>* samples,
                 int64_t tap_stride);
  void (*backward)(const Geometry& geometry, const BackwardUnit<T>& unit, T* scratch);
};

// Elements of scratch memory for one thread.
template <typename T>
constexpr int64_t forward_scratch(int64_t padded_group_outputs) {
  return int64_t(kTile) * (kColumn + padded_group_outputs) +
         (int64_t(kTile) * kTapBlock * sizeof(Sample<T>) + sizeof(T) - 1) / sizeof(T);
}
template <typename T>
constexpr int64_t backward_scratch() {
  return 2 * int64_t(kTile) * kColumn;
}

template <typename T>
const Kernels<T>& kernels_default();
template <typename T>
const Kernels<T>& kernels_avx2();
template <typename T>
const Kernels<T>& kernels_avx512();

}  // namespace fa::deform
