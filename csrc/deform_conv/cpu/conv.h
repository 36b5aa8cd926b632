// Forward and backward of the deformable convolution on the CPU, over all levels at once.
#pragma once

#include "deform_conv/cpu/plan.h"

namespace fa::deform {

// Fills the levels' outputs. weight (O, C / groups, kh, kw) contiguous, bias (O) or undefined, in
// the compute type.
template <typename T>
void forward(const std::vector<Level>& levels, bool mask_is_logit, const at::Tensor& weight,
             const at::Tensor& bias);

// Fills the gradients that are defined, from the levels' outputs, which hold the incoming
// gradients. grad_weight must be 0 beforehand. The order of all sums depends on the shapes alone.
template <typename T>
void backward(const std::vector<Level>& levels, bool mask_is_logit, const at::Tensor& weight,
              const at::Tensor& grad_weight);

}  // namespace fa::deform
