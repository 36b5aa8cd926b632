// What the passes of the deformable convolution on CUDA share: views of tensors for the kernels,
// and the input's blocks in the kernels' layout.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "deform_conv/cuda/chunks.h"
#include "deform_conv/cuda/kernels.h"
#include "deform_conv/cuda/level.h"

#define FA_DISPATCH(TYPE, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, "deform_conv2d", __VA_ARGS__)

namespace fa::deform::cuda {

// Whether (N, C, H, W) lies in memory as rows (N * H * W, C).
inline bool are_rows(const at::Tensor& map) { return map.permute({0, 2, 3, 1}).is_contiguous(); }

inline at::Tensor rows_of(const at::Tensor& map) {
  return map.permute({0, 2, 3, 1}).view({-1, map.size(1)});
}

// Every image for itself lies as rows, as the sampling reads it: also an expanded batch.
inline bool are_rows_each(const at::Tensor& map) {
  return map.size(0) == 0 || are_rows(map.narrow(0, 0, 1));
}

template <typename T>
Map<T> map_of(const at::Tensor& tensor, int64_t first_image) {
  if (!tensor.defined()) return {nullptr, 0, 0, 0, 0};
  using Plain = std::remove_const_t<T>;
  T* data = nullptr;
  if constexpr (std::is_const_v<T>) {
    data = tensor.const_data_ptr<Plain>();
  } else {
    data = tensor.mutable_data_ptr<Plain>();
  }
  return {data + first_image * tensor.stride(0), tensor.stride(0), tensor.stride(1),
          tensor.stride(2), tensor.stride(3)};
}

inline Positions positions_of(const Segment& segment, const Arguments& a) {
  const int64_t pixels = a.out_height * a.out_width;
  return {static_cast<uint32_t>(segment.first / pixels),
          static_cast<uint32_t>(segment.first % pixels), static_cast<uint32_t>(segment.count)};
}

// The pixels of all images of a block's input.
inline Positions input_positions(const Block& block, const Arguments& a) {
  return {0, 0, static_cast<uint32_t>(block.images * a.height * a.width)};
}

// The input of the block that is worked on, (images, H, W, C): a view or a copy. A chunk goes
// through the blocks in order, and kernels run in the order of their launch: one copy at a time is
// needed by the host, and its memory may serve the next one.
struct BlockInput {
  at::Tensor owner;  // keeps the data alive
  const void* data = nullptr;
  int64_t image_stride = 0;
};

BlockInput block_input(const Level& level, const Block& block);

// The arguments of the sampling kernels for a segment.
template <typename T>
Samples<T> samples_of(const Level& level, const Block& block, const Segment& segment,
                      const BlockInput& input);

}  // namespace fa::deform::cuda
