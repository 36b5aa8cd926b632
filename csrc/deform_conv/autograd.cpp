// deform_conv2d and deform_conv2d_levels with their gradients, over the device's kernels, which
// know nothing of autograd.
#include "common/autograd.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

#include <array>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

namespace fa::deform {
namespace {

using at::Tensor;
using at::TensorList;
using std::optional;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using Sizes = c10::SymIntArrayRef;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Tensor conv_below(const Tensor& input, const Tensor& weight, const Tensor& offset,
                  const optional<Tensor>& mask, const optional<Tensor>& bias, Sizes stride,
                  Sizes padding, Sizes dilation) {
  static const auto op = find_operator<decltype(conv_below)>("fa_detectron::deform_conv2d");
  return op.call(input, weight, offset, mask, bias, stride, padding, dilation);
}

Gradients conv_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                        const Tensor& offset, const optional<Tensor>& mask, Sizes stride,
                        Sizes padding, Sizes dilation, std::array<bool, 5> needed) {
  static const auto op =
      find_operator<decltype(conv_backward)>("fa_detectron::deform_conv2d_backward");
  return op.call(grad, input, weight, offset, mask, stride, padding, dilation, needed);
}

std::vector<Tensor> levels_below(TensorList inputs, TensorList offset_masks, const Tensor& weight,
                                 const optional<Tensor>& bias) {
  static const auto op =
      find_operator<decltype(levels_below)>("fa_detectron::deform_conv2d_levels");
  return op.call(inputs, offset_masks, weight, bias);
}

std::vector<Tensor> levels_backward(TensorList grads, TensorList inputs, TensorList offset_masks,
                                    const Tensor& weight, std::array<bool, 4> needed) {
  static const auto op =
      find_operator<decltype(levels_backward)>("fa_detectron::deform_conv2d_levels_backward");
  return op.call(grads, inputs, offset_masks, weight, needed);
}

// The tensor or, where no gradient was asked for and the operator returned no elements, nothing.
Tensor if_needed(bool needed, const Tensor& grad) { return needed ? grad : Tensor(); }

optional<Tensor> if_defined(const Tensor& x) { return x.defined() ? optional(x) : std::nullopt; }

// The edges of the inputs; null where none of them needs a gradient. Nodes, not
// torch::autograd::Function: that does not work under torch.func.grad.
template <typename T, typename... Inputs>
std::shared_ptr<T> make_node(const Inputs&... inputs) {
  if (!torch::autograd::compute_requires_grad(inputs...)) return nullptr;
  std::shared_ptr<T> node(new T(), torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  return node;
}

struct ConvBackward : Node {
  SavedVariable input, weight, offset, mask;
  std::vector<c10::SymInt> stride, padding, dilation;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return variable_list(5);
    std::array<bool, 5> needed;
    for (size_t i = 0; i < needed.size(); ++i) needed[i] = task_should_compute_output(i);
    const auto [of_input, of_weight, of_offset, of_mask, of_bias] =
        conv_backward(grads[0], input.unpack(), weight.unpack(), offset.unpack(),
                      if_defined(mask.unpack()), stride, padding, dilation, needed);
    return {if_needed(needed[0], of_input), if_needed(needed[1], of_weight),
            if_needed(needed[2], of_offset), if_needed(needed[3], of_mask),
            if_needed(needed[4], of_bias)};
  }

  void release_variables() override {
    for (SavedVariable* saved : {&input, &weight, &offset, &mask}) saved->reset_data();
  }
};

struct LevelsBackward : Node {
  std::vector<SavedVariable> inputs, offset_masks;
  SavedVariable weight;
  std::vector<std::vector<c10::SymInt>> output_sizes;

  variable_list apply(variable_list&& grads) override {
    const size_t levels = inputs.size();
    const auto unpack = [](const std::vector<SavedVariable>& all) {
      variable_list found;
      for (const SavedVariable& saved : all) found.push_back(saved.unpack());
      return found;
    };
    const Tensor of_weight = weight.unpack();
    for (size_t l = 0; l < levels; ++l) {
      if (!grads[l].defined()) grads[l] = at::zeros_symint(output_sizes[l], of_weight.options());
    }
    std::array<bool, 4> needed = {false, false, task_should_compute_output(2 * levels),
                                  task_should_compute_output(2 * levels + 1)};
    for (size_t l = 0; l < levels; ++l) {
      needed[0] |= task_should_compute_output(l);
      needed[1] |= task_should_compute_output(levels + l);
    }
    variable_list found =
        levels_backward(grads, unpack(inputs), unpack(offset_masks), of_weight, needed);
    for (size_t i = 0; i < found.size(); ++i)
      found[i] = if_needed(task_should_compute_output(i), found[i]);
    return found;
  }

  void release_variables() override {
    for (SavedVariable& saved : inputs) saved.reset_data();
    for (SavedVariable& saved : offset_masks) saved.reset_data();
    weight.reset_data();
  }
};

// Of the backward operators.
struct NoSecondDerivative : Node {
  variable_list apply(variable_list&&) override {
    TORCH_CHECK(false,
                "the native deformable convolution has no second derivative; "
                "fa_detectron.ops.reference.deform_conv2d has one");
  }
};

Tensor conv(const Tensor& input, const Tensor& weight, const Tensor& offset,
            const optional<Tensor>& mask, const optional<Tensor>& bias, Sizes stride, Sizes padding,
            Sizes dilation) {
  refuse_tangents(input, weight, offset, mask, bias);
  const auto node = make_node<ConvBackward>(input, weight, offset, mask.value_or(Tensor()),
                                            bias.value_or(Tensor()));
  if (node) {
    node->input = SavedVariable(input, false), node->weight = SavedVariable(weight, false);
    node->offset = SavedVariable(offset, false);
    node->mask = SavedVariable(mask.value_or(Tensor()), false);
    node->stride = stride.vec(), node->padding = padding.vec(), node->dilation = dilation.vec();
  }
  const Tensor output = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return conv_below(input, weight, offset, mask, bias, stride, padding, dilation);
  }();
  if (node) torch::autograd::set_history(output, node);
  return output;
}

std::vector<Tensor> levels(TensorList inputs, TensorList offset_masks, const Tensor& weight,
                           const optional<Tensor>& bias) {
  refuse_tangents(inputs, offset_masks, weight, bias);
  const auto node =
      make_node<LevelsBackward>(inputs, offset_masks, weight, bias.value_or(Tensor()));
  if (node) {
    for (const Tensor& x : inputs) node->inputs.emplace_back(x, false);
    for (const Tensor& x : offset_masks) node->offset_masks.emplace_back(x, false);
    node->weight = SavedVariable(weight, false);
  }
  std::vector<Tensor> outputs = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return levels_below(inputs, offset_masks, weight, bias);
  }();
  if (node) {
    for (const Tensor& x : outputs) node->output_sizes.push_back(x.sym_sizes().vec());
    torch::autograd::set_history(outputs, node);
  }
  return outputs;
}

Gradients conv_backward_once(const Tensor& grad, const Tensor& input, const Tensor& weight,
                             const Tensor& offset, const optional<Tensor>& mask, Sizes stride,
                             Sizes padding, Sizes dilation, std::array<bool, 5> needed) {
  const auto node =
      make_node<NoSecondDerivative>(grad, input, weight, offset, mask.value_or(Tensor()));
  const Gradients found = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return conv_backward(grad, input, weight, offset, mask, stride, padding, dilation, needed);
  }();
  if (node) {
    const auto& [of_input, of_weight, of_offset, of_mask, of_bias] = found;
    for (const Tensor& x : {of_input, of_weight, of_offset, of_mask, of_bias})
      torch::autograd::set_history(x, node);
  }
  return found;
}

std::vector<Tensor> levels_backward_once(TensorList grads, TensorList inputs,
                                         TensorList offset_masks, const Tensor& weight,
                                         std::array<bool, 4> needed) {
  const auto node = make_node<NoSecondDerivative>(grads, inputs, offset_masks, weight);
  std::vector<Tensor> found = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return levels_backward(grads, inputs, offset_masks, weight, needed);
  }();
  if (node) torch::autograd::set_history(found, node);
  return found;
}

void implement(torch::Library& m) {
  m.impl("deform_conv2d", TORCH_FN(conv));
  m.impl("deform_conv2d_backward", TORCH_FN(conv_backward_once));
  m.impl("deform_conv2d_levels", TORCH_FN(levels));
  m.impl("deform_conv2d_levels_backward", TORCH_FN(levels_backward_once));
}

}  // namespace

FA_AUTOGRAD(implement)

}  // namespace fa::deform
