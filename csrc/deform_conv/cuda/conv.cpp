// The operators deform_conv2d and deform_conv2d_levels on CUDA: checks, dtypes, allocation. The
// passes are in forward.cpp and backward.cpp.
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <limits>

#include "deform_conv/cuda/level.h"

namespace fa::deform::cuda {
namespace {

using at::Tensor;
using std::optional;

// A backward pass may be called inside autocast, whose casts of our own calls would round sums to
// half precision. The forward operators' autocast rule (deform_conv/autocast.cpp) does the same.
class WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

// mask: undefined where there is none.
Level make_level(const Arguments& arguments, const Tensor& input, const Tensor& offset,
                 const Tensor& mask, bool mask_is_logit) {
  // Records of one position are counted in 32 bits.
  TORCH_CHECK_VALUE(arguments.channels * arguments.kernel_h * arguments.kernel_w <=
                        std::numeric_limits<int32_t>::max(),
                    "deform_conv2d: CUDA takes at most 2^31 - 1 channels times taps");
  const at::ScalarType type = compute_type(input);
  Level level;
  level.arguments = arguments;
  level.mask_is_logit = mask_is_logit;
  level.input = input;
  level.offset = offset.to(type);
  if (mask.defined()) level.mask = mask.to(type);
  return level;
}

void make_output(Level& level) {
  const Arguments& a = level.arguments;
  level.output = at::empty({a.batch, a.outputs, a.out_height, a.out_width}, level.input.options(),
                           output_format(level.input));
}

void make_grad_input(Level& level) {
  level.grad_input =
      at::empty(level.input.sizes(), level.input.options(), output_format(level.input));
}

Tensor bias_gradient(const std::vector<Level>& levels, const Tensor& weight) {
  const at::ScalarType type = compute_type(weight);
  std::vector<Tensor> sums;
  for (const Level& level : levels) sums.push_back(level.grad_output.sum({0, 2, 3}, false, type));
  return at::stack(sums).sum(0).to(weight.scalar_type());
}

std::pair<Tensor, Tensor> parameter_gradients(const std::vector<Level>& levels,
                                              const Tensor& weight, bool needs_weight,
                                              bool needs_bias) {
  const Tensor grad_weight = run_backward(levels, weight, needs_weight);
  return {needs_weight ? grad_weight : nothing(weight),
          needs_bias ? bias_gradient(levels, weight) : nothing(weight)};
}

Tensor or_nothing(const Tensor& grad, const Tensor& like) {
  return grad.defined() ? grad.to(like.scalar_type()) : nothing(like);
}

Tensor deform_conv2d(const Tensor& input, const Tensor& weight, const Tensor& offset,
                     const optional<Tensor>& mask, const optional<Tensor>& bias,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const Arguments arguments = check_arguments("deform_conv2d", input, weight, offset, mask, bias,
                                              stride, padding, dilation);
  const c10::cuda::CUDAGuard guard(input.device());
  std::vector<Level> levels{make_level(arguments, input, offset, mask.value_or(Tensor()), false)};
  make_output(levels[0]);
  run_forward(levels, weight, bias.value_or(Tensor()));
  return levels[0].output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const optional<Tensor>& mask, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, std::array<bool, 5> needed) {
  const char* op = "deform_conv2d_backward";
  const Arguments arguments =
      check_arguments(op, input, weight, offset, mask, std::nullopt, stride, padding, dilation);
  check_grad_output(op, grad_output, arguments, input);
  const WithoutAutocast off;
  const c10::cuda::CUDAGuard guard(input.device());
  std::vector<Level> levels{make_level(arguments, input, offset, mask.value_or(Tensor()), false)};
  Level& level = levels[0];
  level.grad_output = grad_output.to(input.scalar_type());
  if (needed[0]) make_grad_input(level);
  if (needed[2]) level.grad_offset = at::empty(offset.sizes(), level.offset.options());
  if (mask && needed[3]) level.grad_mask = at::empty(mask->sizes(), level.mask.options());
  const auto [grad_weight, grad_bias] = parameter_gradients(levels, weight, needed[1], needed[4]);
  return {or_nothing(level.grad_input, input), grad_weight, or_nothing(level.grad_offset, offset),
          or_nothing(level.grad_mask, mask ? *mask : input), grad_bias};
}

std::vector<Level> make_levels(const std::vector<Arguments>& arguments, at::TensorList inputs,
                               at::TensorList offset_masks) {
  std::vector<Level> levels;
  for (size_t l = 0; l < arguments.size(); ++l) {
    const Tensor& raw = offset_masks[l];
    levels.push_back(
        make_level(arguments[l], inputs[l], raw.narrow(1, 0, 18), raw.narrow(1, 18, 9), true));
  }
  return levels;
}

std::vector<Tensor> deform_conv2d_levels(at::TensorList inputs, at::TensorList offset_masks,
                                         const Tensor& weight, const optional<Tensor>& bias) {
  const auto arguments = check_level_arguments(inputs, offset_masks, weight, bias);
  const c10::cuda::CUDAGuard guard(weight.device());
  std::vector<Level> levels = make_levels(arguments, inputs, offset_masks);
  std::vector<Tensor> outputs;
  for (Level& level : levels) {
    make_output(level);
    outputs.push_back(level.output);
  }
  run_forward(levels, weight, bias.value_or(Tensor()));
  return outputs;
}

std::vector<Tensor> deform_conv2d_levels_backward(at::TensorList grad_outputs,
                                                  at::TensorList inputs,
                                                  at::TensorList offset_masks, const Tensor& weight,
                                                  std::array<bool, 4> needed) {
  const char* op = "deform_conv2d_levels_backward";
  const auto arguments = check_level_arguments(inputs, offset_masks, weight, std::nullopt);
  TORCH_CHECK_VALUE(grad_outputs.size() == arguments.size(), op, ": ", grad_outputs.size(),
                    " gradients for ", arguments.size(), " levels");
  for (size_t l = 0; l < arguments.size(); ++l)
    check_grad_output(op, grad_outputs[l], arguments[l], inputs[l]);
  const WithoutAutocast off;
  const c10::cuda::CUDAGuard guard(weight.device());
  std::vector<Level> levels = make_levels(arguments, inputs, offset_masks);
  std::vector<Tensor> grad_raw(levels.size());
  for (size_t l = 0; l < levels.size(); ++l) {
    Level& level = levels[l];
    level.grad_output = grad_outputs[l].to(inputs[l].scalar_type());
    if (needed[0]) make_grad_input(level);
    if (needed[1]) {
      grad_raw[l] = at::empty(offset_masks[l].sizes(), level.offset.options());
      level.grad_offset = grad_raw[l].narrow(1, 0, 18);
      level.grad_mask = grad_raw[l].narrow(1, 18, 9);
    }
  }
  const auto [grad_weight, grad_bias] = parameter_gradients(levels, weight, needed[2], needed[3]);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < levels.size(); ++l)
    gradients.push_back(or_nothing(levels[l].grad_input, inputs[l]));
  for (size_t l = 0; l < levels.size(); ++l)
    gradients.push_back(or_nothing(grad_raw[l], offset_masks[l]));
  gradients.push_back(grad_weight);
  gradients.push_back(grad_bias);
  return gradients;
}

}  // namespace

TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) {
  m.impl("deform_conv2d", TORCH_FN(deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_FN(deform_conv2d_backward));
  m.impl("deform_conv2d_levels", TORCH_FN(deform_conv2d_levels));
  m.impl("deform_conv2d_levels_backward", TORCH_FN(deform_conv2d_levels_backward));
}

}  // namespace fa::deform::cuda
