// The operators deform_conv2d and deform_conv2d_levels on the CPU: checks, dtypes, allocation. The
// work is in forward.cpp and backward.cpp.
#include "deform_conv/cpu/conv.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace fa::deform {
namespace {

using at::Tensor;
using std::optional;

Tensor prepared(const Tensor& tensor, at::ScalarType type) { return flat(tensor.to(type)); }

Tensor allocate(at::IntArrayRef sizes, const Tensor& like, at::ScalarType type,
                at::MemoryFormat format) {
  return at::empty(sizes, like.options().dtype(type).memory_format(format));
}

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

void run_forward(const std::vector<Level>& levels, bool mask_is_logit, const Tensor& weight,
                 const optional<Tensor>& bias) {
  const at::ScalarType type = compute_type(weight);
  const Tensor weight_used = weight.to(type).contiguous();
  const Tensor bias_used = bias ? bias->to(type).contiguous() : Tensor();
  if (type == at::kDouble) {
    forward<double>(levels, mask_is_logit, weight_used, bias_used);
  } else {
    forward<float>(levels, mask_is_logit, weight_used, bias_used);
  }
}

// Sum over images and positions of all levels, in one order whatever the number of threads.
template <typename T>
void add_bias_gradient(const std::vector<Level>& levels, const Tensor& grad_bias) {
  T* to = grad_bias.data_ptr<T>();
  const std::vector<Map<T>> maps = make_maps<T>(levels);
  at::parallel_for(0, grad_bias.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      double total = 0;
      for (const Map<T>& map : maps) {
        const T* from = map.output.data + o * map.output.channel_stride;
        const int64_t positions = map.positions(), stride = map.output.pixel_stride;
        T lanes[16] = {};
        int64_t p = 0;
        for (; p + 16 <= positions; p += 16) {
          for (int k = 0; k < 16; ++k) lanes[k] += from[(p + k) * stride];
        }
        for (; p < positions; ++p) lanes[0] += from[p * stride];
        for (const T lane : lanes) total += lane;
      }
      to[o] = T(total);
    }
  });
}

// Runs backward; returns the gradients of weight and bias in the dtype of weight.
std::pair<Tensor, Tensor> run_backward(const std::vector<Level>& levels, bool mask_is_logit,
                                       const Tensor& weight, bool needs_weight, bool needs_bias,
                                       bool needs_rest) {
  const at::ScalarType type = compute_type(weight);
  const Tensor weight_used = weight.to(type).contiguous();
  const Tensor grad_weight =
      needs_weight ? at::zeros(weight.sizes(), weight.options().dtype(type)) : Tensor();
  const Tensor grad_bias =
      needs_bias ? at::zeros({weight.size(0)}, weight.options().dtype(type)) : Tensor();
  const bool is_double = type == at::kDouble;
  if (needs_weight || needs_rest) {
    (is_double ? backward<double> : backward<float>)(levels, mask_is_logit, weight_used,
                                                     grad_weight);
  }
  if (needs_bias)
    (is_double ? add_bias_gradient<double> : add_bias_gradient<float>)(levels, grad_bias);
  return {needs_weight ? grad_weight.to(weight.scalar_type()) : nothing(weight),
          needs_bias ? grad_bias.to(weight.scalar_type()) : nothing(weight)};
}

Tensor deform_conv2d(const Tensor& input, const Tensor& weight, const Tensor& offset,
                     const optional<Tensor>& mask, const optional<Tensor>& bias,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  Level level;
  level.arguments = check_arguments("deform_conv2d", input, weight, offset, mask, bias, stride,
                                    padding, dilation);
  const Arguments& a = level.arguments;
  const at::ScalarType type = compute_type(input);
  level.input = prepared(input, type);
  level.offset = prepared(offset, type);
  if (mask) level.mask = prepared(*mask, type);
  level.output =
      allocate({a.batch, a.outputs, a.out_height, a.out_width}, input, type, output_format(input));
  run_forward({level}, false, weight, bias);
  return level.output.to(input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const optional<Tensor>& mask, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, std::array<bool, 5> needed) {
  Level level;
  level.arguments = check_arguments("deform_conv2d_backward", input, weight, offset, mask,
                                    std::nullopt, stride, padding, dilation);
  check_grad_output("deform_conv2d_backward", grad_output, level.arguments, input);
  const at::ScalarType type = compute_type(input);
  const auto contiguous = at::MemoryFormat::Contiguous;
  level.input = prepared(input, type);
  level.offset = prepared(offset, type);
  if (mask) level.mask = prepared(*mask, type);
  level.output = prepared(grad_output, type);
  const bool needs_mask = mask && needed[3];
  if (needed[0]) level.grad_input = allocate(input.sizes(), input, type, output_format(input));
  if (needed[2]) level.grad_offset = allocate(offset.sizes(), offset, type, contiguous);
  if (needs_mask) level.grad_mask = allocate(mask->sizes(), *mask, type, contiguous);
  const auto [grad_weight, grad_bias] = run_backward({level}, false, weight, needed[1], needed[4],
                                                     needed[0] || needed[2] || needs_mask);
  return {needed[0] ? level.grad_input.to(input.scalar_type()) : nothing(input), grad_weight,
          needed[2] ? level.grad_offset.to(offset.scalar_type()) : nothing(offset),
          needs_mask ? level.grad_mask.to(mask->scalar_type()) : nothing(mask ? *mask : input),
          grad_bias};
}

// The levels' inputs, and the two parts of the raw maps.
std::vector<Level> make_levels(at::TensorList inputs, at::TensorList offset_masks,
                               const Tensor& weight, const optional<Tensor>& bias) {
  const std::vector<Arguments> arguments =
      check_level_arguments(inputs, offset_masks, weight, bias);
  const at::ScalarType type = compute_type(weight);
  std::vector<Level> levels(arguments.size());
  for (size_t l = 0; l < levels.size(); ++l) {
    const Tensor raw = prepared(offset_masks[l], type);
    levels[l].arguments = arguments[l];
    levels[l].input = prepared(inputs[l], type);
    levels[l].offset = raw.narrow(1, 0, 18);
    levels[l].mask = raw.narrow(1, 18, 9);
  }
  return levels;
}

std::vector<Tensor> deform_conv2d_levels(at::TensorList inputs, at::TensorList offset_masks,
                                         const Tensor& weight, const optional<Tensor>& bias) {
  std::vector<Level> levels = make_levels(inputs, offset_masks, weight, bias);
  for (size_t l = 0; l < levels.size(); ++l) {
    const Arguments& a = levels[l].arguments;
    levels[l].output = allocate({a.batch, a.outputs, a.out_height, a.out_width}, inputs[l],
                                compute_type(weight), output_format(inputs[l]));
  }
  run_forward(levels, true, weight, bias);
  std::vector<Tensor> outputs;
  for (size_t l = 0; l < levels.size(); ++l)
    outputs.push_back(levels[l].output.to(inputs[l].scalar_type()));
  return outputs;
}

std::vector<Tensor> deform_conv2d_levels_backward(at::TensorList grad_outputs,
                                                  at::TensorList inputs,
                                                  at::TensorList offset_masks, const Tensor& weight,
                                                  std::array<bool, 4> needed) {
  std::vector<Level> levels = make_levels(inputs, offset_masks, weight, std::nullopt);
  TORCH_CHECK_VALUE(grad_outputs.size() == levels.size(),
                    "deform_conv2d_levels_backward: ", grad_outputs.size(), " gradients for ",
                    levels.size(), " levels");
  const at::ScalarType type = compute_type(weight);
  std::vector<Tensor> grad_raw(levels.size());
  for (size_t l = 0; l < levels.size(); ++l) {
    Level& level = levels[l];
    check_grad_output("deform_conv2d_levels_backward", grad_outputs[l], level.arguments, inputs[l]);
    level.output = prepared(grad_outputs[l], type);
    if (needed[0])
      level.grad_input = allocate(inputs[l].sizes(), inputs[l], type, output_format(inputs[l]));
    if (needed[1]) {
      grad_raw[l] =
          allocate(offset_masks[l].sizes(), offset_masks[l], type, at::MemoryFormat::Contiguous);
      level.grad_offset = grad_raw[l].narrow(1, 0, 18);
      level.grad_mask = grad_raw[l].narrow(1, 18, 9);
    }
  }
  const auto [grad_weight, grad_bias] =
      run_backward(levels, true, weight, needed[2], needed[3], needed[0] || needed[1]);
  std::vector<Tensor> gradients;
  for (size_t l = 0; l < levels.size(); ++l) {
    gradients.push_back(needed[0] ? levels[l].grad_input.to(inputs[l].scalar_type())
                                  : nothing(inputs[l]));
  }
  for (size_t l = 0; l < levels.size(); ++l) {
    gradients.push_back(needed[1] ? grad_raw[l].to(offset_masks[l].scalar_type())
                                  : nothing(offset_masks[l]));
  }
  gradients.push_back(grad_weight);
  gradients.push_back(grad_bias);
  return gradients;
}

}  // namespace

TORCH_LIBRARY_IMPL(fa_detectron, CPU, m) {
  m.impl("deform_conv2d", TORCH_FN(deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_FN(deform_conv2d_backward));
  m.impl("deform_conv2d_levels", TORCH_FN(deform_conv2d_levels));
  m.impl("deform_conv2d_levels_backward", TORCH_FN(deform_conv2d_levels_backward));
}

}  // namespace fa::deform
