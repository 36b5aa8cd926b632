// Argument checks of the deformable convolution, the same on every device, with errors in words.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace fa::deform {

struct Arguments {
  int64_t batch, channels, height, width, outputs, kernel_h, kernel_w, out_height, out_width;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups, offset_groups;
};

// Throws where shapes, dtypes or devices do not fit each other; `op` names the operator in the
// message.
Arguments check_arguments(const char* op, const at::Tensor& input, const at::Tensor& weight,
                          const at::Tensor& offset, const std::optional<at::Tensor>& mask,
                          const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
                          at::IntArrayRef padding, at::IntArrayRef dilation);

// The same for all levels at once; returns one entry a level.
std::vector<Arguments> check_level_arguments(at::TensorList inputs, at::TensorList offset_masks,
                                             const at::Tensor& weight,
                                             const std::optional<at::Tensor>& bias);

// Throws unless `grad_output` fits the output that the arguments make, and lies beside the input.
void check_grad_output(const char* op, const at::Tensor& grad_output, const Arguments& arguments,
                       const at::Tensor& input);

// An output keeps the input's layout: channels_last where the input is that and not contiguous. The
// fake kernels in fa_detectron/ops/deform_conv_kernels.py follow the same rule.
at::MemoryFormat output_format(const at::Tensor& input);

// The dtype that sums are computed in: float64 for float64, else float32.
at::ScalarType compute_type(const at::Tensor& input);

}  // namespace fa::deform
