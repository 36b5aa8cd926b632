// One call of the deformable convolution on a level, and the passes over all levels. Legend: N
// images, C channels, O outputs, T taps, D offset groups.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

#include "deform_conv/arguments.h"

namespace fa::deform::cuda {

// Tensors of any strides on one device, checked; undefined is not there or not wanted. Those of the
// input's dtype: input, output, grad_output, grad_input; in the compute type: the others.
struct Level {
  Arguments arguments;
  bool mask_is_logit = false;
  at::Tensor input;                // (N, C, H, W)
  at::Tensor offset, mask;         // (N, 2 * D * T, Ho, Wo), (N, D * T, Ho, Wo)
  at::Tensor output, grad_output;  // (N, O, Ho, Wo)
  at::Tensor grad_input;           // written, as what follows
  at::Tensor grad_offset, grad_mask;
};

// Writes the levels' outputs from weight (O, C / groups, kh, kw) and bias (O) or undefined.
void run_forward(const std::vector<Level>& levels, const at::Tensor& weight,
                 const at::Tensor& bias);

// Writes the gradients that the levels ask for. Returns the weight's, undefined unless needed.
//
// The input's gradient is summed by atomic additions, in no order. Under
// torch.use_deterministic_algorithms(True) it is summed in 64-bit integers, bitwise the same in any
// order: each addend is rounded to about 2^-60 of the largest sum that the sizes allow; if a
// gradient or a weight is not finite, all of the input's gradient is NaN.
at::Tensor run_backward(const std::vector<Level>& levels, const at::Tensor& weight,
                        bool needs_weight);

}  // namespace fa::deform::cuda
