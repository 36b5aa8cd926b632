// Launchers of the deformable convolution on CUDA. All tensors are contiguous, on one device,
// checked by the caller. Legend: C channels, O outputs, T taps, D offset groups, P positions of all
// images of a level.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/deform_arguments.h"

namespace fa::deform {

// Sizes that the kernels need, passed by value.
struct CudaGeometry {
  int32_t channels, outputs, groups, offset_groups, height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t positions;  // N * Ho * Wo
  bool mask_is_logit;
};

// One level. offset and mask are (N, channels, Ho, Wo) with image strides of their own: both may be
// parts of one map.
template <typename T>
struct CudaLevel {
  CudaGeometry geometry;
  const T* input;  // (N, C, H, W)
  const T* offset;
  const T* mask;  // or null
  int64_t offset_stride, mask_stride;
};

// output (N, O, Ho, Wo) from weight (groups, T, C / groups, O / groups) and bias (O) or null.
template <typename T>
void launch_forward(const CudaLevel<T>& level, const T* weight, const T* bias, T* output);

// Adds to grad_input (N, C, H, W) with atomics; sets grad_offset and grad_mask (image strides as
// offset's and mask's). Null for what is not wanted. weight (groups, T, C / groups, O / groups).
template <typename T>
void launch_backward_points(const CudaLevel<T>& level, const T* weight, const T* grad_output,
                            T* grad_input, T* grad_offset, T* grad_mask);

// partial (splits, groups, T, C / groups, O / groups): the weight's gradient over a split of the
// positions each.
template <typename T>
void launch_backward_weight(const CudaLevel<T>& level, const T* grad_output, int splits,
                            T* partial);

}  // namespace fa::deform
