// The operators deform_conv2d and deform_conv2d_levels on CUDA: checks, dtypes, allocation; the
// kernels are in *.cu. Half types are computed in float32.
#include "cuda/deform_conv.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

namespace fa::deform {
namespace {

using at::Tensor;
using std::optional;

// What a call works on, contiguous and in the compute type; undefined is not there or not wanted.
struct Call {
  Arguments arguments;
  bool mask_is_logit = false;
  Tensor input, offset, mask, grad_output, grad_input, grad_offset, grad_mask;
};

Tensor prepared(const Tensor& tensor, at::ScalarType type) { return tensor.to(type).contiguous(); }

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

// (O, C / groups, kh, kw) -> (groups, T, C / groups, O / groups): outputs side by side, as the
// kernels read them.
Tensor packed(const Tensor& weight, const Arguments& a, at::ScalarType type) {
  return weight.to(type)
      .reshape({a.groups, a.outputs / a.groups, weight.size(1), a.kernel_h * a.kernel_w})
      .permute({0, 3, 2, 1})
      .contiguous();
}

Tensor unpacked(const Tensor& grad, const Tensor& weight) {
  return grad.permute({0, 3, 2, 1}).reshape(weight.sizes()).to(weight.scalar_type());
}

template <typename T>
const T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

template <typename T>
T* mutable_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

template <typename T>
CudaLevel<T> make_level(const Call& call) {
  const Arguments& a = call.arguments;
  CudaLevel<T> level;
  CudaGeometry& g = level.geometry;
  g.channels = a.channels, g.outputs = a.outputs, g.groups = a.groups,
  g.offset_groups = a.offset_groups;
  g.height = a.height, g.width = a.width, g.out_height = a.out_height, g.out_width = a.out_width;
  g.kernel_h = a.kernel_h, g.kernel_w = a.kernel_w, g.stride_h = a.stride_h,
  g.stride_w = a.stride_w;
  g.pad_h = a.pad_h, g.pad_w = a.pad_w, g.dilation_h = a.dilation_h, g.dilation_w = a.dilation_w;
  g.positions = a.batch * a.out_height * a.out_width;
  g.mask_is_logit = call.mask_is_logit;
  TORCH_CHECK_VALUE(a.groups * a.kernel_h * a.kernel_w <= 65535 && a.offset_groups <= 65535,
                    "deform_conv2d: CUDA takes at most 65535 groups times taps, and offset groups");
  level.input = data_or_null<T>(call.input);
  level.offset = data_or_null<T>(call.offset);
  level.mask = data_or_null<T>(call.mask);
  level.offset_stride = call.offset.stride(0);
  level.mask_stride = call.mask.defined() ? call.mask.stride(0) : 0;
  return level;
}

template <typename T>
Tensor forward(const Call& call, const Tensor& weight, const Tensor& bias) {
  const Arguments& a = call.arguments;
  Tensor output = at::empty({a.batch, a.outputs, a.out_height, a.out_width}, call.input.options());
  launch_forward<T>(make_level<T>(call), weight.const_data_ptr<T>(), data_or_null<T>(bias),
                    output.mutable_data_ptr<T>());
  return output;
}

// Adds the weight's gradient, packed, to grad_weight where that is defined.
template <typename T>
void backward(const Call& call, const Tensor& weight, const Tensor& grad_weight) {
  const CudaLevel<T> level = make_level<T>(call);
  if (level.geometry.positions == 0) return;
  const T* grad = call.grad_output.const_data_ptr<T>();
  if (call.grad_input.defined() || call.grad_offset.defined() || call.grad_mask.defined()) {
    // Bands of the input are shared by blocks: its sum has no order.
    if (call.grad_input.defined())
      at::globalContext().alertNotDeterministic("fa_detectron::deform_conv2d_backward");
    launch_backward_points<T>(
        level, weight.const_data_ptr<T>(), grad, mutable_or_null<T>(call.grad_input),
        mutable_or_null<T>(call.grad_offset), mutable_or_null<T>(call.grad_mask));
  }
  if (grad_weight.defined()) {
    const int splits = std::clamp<int64_t>(level.geometry.positions / 4096, 1, 8);
    std::vector<int64_t> sizes = grad_weight.sizes().vec();
    sizes.insert(sizes.begin(), splits);
    const Tensor partial = at::empty(sizes, grad_weight.options());
    launch_backward_weight<T>(level, grad, splits, partial.mutable_data_ptr<T>());
    grad_weight.add_(partial.sum(0));
  }
}

Tensor run_forward(const Call& call, const Tensor& input, const Tensor& weight,
                   const optional<Tensor>& bias) {
  const at::ScalarType type = compute_type(input);
  const Tensor weight_used = packed(weight, call.arguments, type);
  const Tensor bias_used = bias ? prepared(*bias, type) : Tensor();
  const Tensor output =
      (type == at::kDouble ? forward<double> : forward<float>)(call, weight_used, bias_used);
  return output.to(input.scalar_type()).contiguous(output_format(input));
}

// The gradients of weight and bias of all calls; the rest goes where the calls say.
std::pair<Tensor, Tensor> run_backward(const std::vector<Call>& calls, const Tensor& weight,
                                       bool needs_weight, bool needs_bias) {
  const at::ScalarType type = compute_type(weight);
  const Tensor weight_used = packed(weight, calls[0].arguments, type);
  const Tensor grad_weight =
      needs_weight ? at::zeros(weight_used.sizes(), weight_used.options()) : Tensor();
  const Tensor grad_bias =
      needs_bias ? at::zeros({weight.size(0)}, weight_used.options()) : Tensor();
  for (const Call& call : calls) {
    (type == at::kDouble ? backward<double> : backward<float>)(call, weight_used, grad_weight);
    if (needs_bias) grad_bias.add_(call.grad_output.sum({0, 2, 3}));
  }
  return {needs_weight ? unpacked(grad_weight, weight) : nothing(weight),
          needs_bias ? grad_bias.to(weight.scalar_type()) : nothing(weight)};
}

Tensor finished_input(const Tensor& grad, const Tensor& input) {
  return grad.defined() ? grad.to(input.scalar_type()).contiguous(output_format(input))
                        : nothing(input);
}

Tensor deform_conv2d(const Tensor& input, const Tensor& weight, const Tensor& offset,
                     const optional<Tensor>& mask, const optional<Tensor>& bias,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(input.device());
  const at::ScalarType type = compute_type(input);
  Call call;
  call.arguments = check_arguments("deform_conv2d", input, weight, offset, mask, bias, stride,
                                   padding, dilation);
  call.input = prepared(input, type);
  call.offset = prepared(offset, type);
  if (mask) call.mask = prepared(*mask, type);
  return run_forward(call, input, weight, bias);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const optional<Tensor>& mask, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, std::array<bool, 5> needed) {
  const c10::cuda::CUDAGuard guard(input.device());
  const at::ScalarType type = compute_type(input);
  Call call;
  call.arguments = check_arguments("deform_conv2d_backward", input, weight, offset, mask,
                                   std::nullopt, stride, padding, dilation);
  call.input = prepared(input, type);
  call.offset = prepared(offset, type);
  if (mask) call.mask = prepared(*mask, type);
  check_grad_output("deform_conv2d_backward", grad_output, call.arguments, input);
  call.grad_output = prepared(grad_output, type);
  const bool needs_mask = mask && needed[3];
  if (needed[0]) call.grad_input = at::zeros(input.sizes(), call.input.options());
  if (needed[2]) call.grad_offset = at::empty(offset.sizes(), call.offset.options());
  if (needs_mask) call.grad_mask = at::empty(mask->sizes(), call.mask.options());
  const auto [grad_weight, grad_bias] = run_backward({call}, weight, needed[1], needed[4]);
  return {finished_input(call.grad_input, input), grad_weight,
          needed[2] ? call.grad_offset.to(offset.scalar_type()) : nothing(offset),
          needs_mask ? call.grad_mask.to(mask->scalar_type()) : nothing(input), grad_bias};
}

std::vector<Call> make_calls(at::TensorList inputs, at::TensorList offset_masks,
                             const Tensor& weight, const optional<Tensor>& bias) {
  const std::vector<Arguments> arguments =
      check_level_arguments(inputs, offset_masks, weight, bias);
  const at::ScalarType type = compute_type(weight);
  std::vector<Call> calls(arguments.size());
  for (size_t l = 0; l < calls.size(); ++l) {
    const Tensor raw = prepared(offset_masks[l], type);
    calls[l].arguments = arguments[l];
    calls[l].mask_is_logit = true;
    calls[l].input = prepared(inputs[l], type);
    calls[l].offset = raw.narrow(1, 0, 18);
    calls[l].mask = raw.narrow(1, 18, 9);
  }
  return calls;
}

std::vector<Tensor> deform_conv2d_levels(at::TensorList inputs, at::TensorList offset_masks,
                                         const Tensor& weight, const optional<Tensor>& bias) {
  const c10::cuda::CUDAGuard guard(weight.device());
  const std::vector<Call> calls = make_calls(inputs, offset_masks, weight, bias);
  std::vector<Tensor> outputs;
  for (size_t l = 0; l < calls.size(); ++l)
    outputs.push_back(run_forward(calls[l], inputs[l], weight, bias));
  return outputs;
}

std::vector<Tensor> deform_conv2d_levels_backward(at::TensorList grad_outputs,
                                                  at::TensorList inputs,
                                                  at::TensorList offset_masks, const Tensor& weight,
                                                  std::array<bool, 4> needed) {
  const c10::cuda::CUDAGuard guard(weight.device());
  std::vector<Call> calls = make_calls(inputs, offset_masks, weight, std::nullopt);
  TORCH_CHECK_VALUE(grad_outputs.size() == calls.size(),
                    "deform_conv2d_levels_backward: ", grad_outputs.size(), " gradients for ",
                    calls.size(), " levels");
  const at::ScalarType type = compute_type(weight);
  std::vector<Tensor> grad_raw(calls.size());
  for (size_t l = 0; l < calls.size(); ++l) {
    Call& call = calls[l];
    check_grad_output("deform_conv2d_levels_backward", grad_outputs[l], call.arguments, inputs[l]);
    call.grad_output = prepared(grad_outputs[l], type);
    if (needed[0]) call.grad_input = at::zeros(inputs[l].sizes(), call.input.options());
    if (needed[1]) {
      grad_raw[l] = at::empty(offset_masks[l].sizes(), call.offset.options());
      call.grad_offset = grad_raw[l].narrow(1, 0, 18);
      call.grad_mask = grad_raw[l].narrow(1, 18, 9);
    }
  }
  const auto [grad_weight, grad_bias] = run_backward(calls, weight, needed[2], needed[3]);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < calls.size(); ++l)
    gradients.push_back(finished_input(calls[l].grad_input, inputs[l]));
  for (size_t l = 0; l < calls.size(); ++l) {
    gradients.push_back(needed[1] ? grad_raw[l].to(offset_masks[l].scalar_type())
                                  : nothing(offset_masks[l]));
  }
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

}  // namespace fa::deform
