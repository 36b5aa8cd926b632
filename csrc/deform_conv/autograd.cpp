// deform_conv2d and deform_conv2d_levels with their gradients, over the device's kernels, which
// know nothing of autograd.
#include "common/autograd.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>
#include <vector>

namespace fa::deform {
namespace {

using at::Tensor;
using at::TensorList;
using std::optional;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
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

struct Conv : Function<Conv> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight,
                        const Tensor& offset, const optional<Tensor>& mask,
                        const optional<Tensor>& bias, Sizes stride, Sizes padding, Sizes dilation) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({input, weight, offset, mask.value_or(Tensor())});
    ctx->saved_data["has_bias"] = bias.has_value();
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    ctx->saved_data["dilation"] = dilation;
    return conv_below(input, weight, offset, mask, bias, stride, padding, dilation);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const optional<Tensor> mask = saved[3].defined() ? optional<Tensor>(saved[3]) : std::nullopt;
    const auto numbers = [&](const char* name) { return ctx->saved_data[name].toSymIntVector(); };
    // Only tensors that are there have an edge.
    size_t edge = 0;
    const auto next = [&](bool there) { return there && ctx->needs_input_grad(edge++); };
    std::array<bool, 5> needed;
    const bool there[] = {true, true, true, mask.has_value(), ctx->saved_data["has_bias"].toBool()};
    for (size_t i = 0; i < needed.size(); ++i) needed[i] = next(there[i]);
    const auto [input, weight, offset, of_mask, bias] =
        conv_backward(grads[0], saved[0], saved[1], saved[2], mask, numbers("stride"),
                      numbers("padding"), numbers("dilation"), needed);
    return {if_needed(needed[0], input),
            if_needed(needed[1], weight),
            if_needed(needed[2], offset),
            if_needed(needed[3], of_mask),
            if_needed(needed[4], bias),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

struct Levels : Function<Levels> {
  static variable_list forward(AutogradContext* ctx, TensorList inputs, TensorList offset_masks,
                               const Tensor& weight, const optional<Tensor>& bias) {
    const at::AutoDispatchBelowADInplaceOrView below;
    variable_list saved = inputs.vec();
    saved.insert(saved.end(), offset_masks.begin(), offset_masks.end());
    saved.push_back(weight);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["has_bias"] = bias.has_value();
    return levels_below(inputs, offset_masks, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list saved = ctx->get_saved_variables();
    const size_t levels = grads.size();
    const TensorList all(saved);
    const auto any = [&](size_t first, size_t last) {
      for (size_t edge = first; edge < last; ++edge) {
        if (ctx->needs_input_grad(edge)) return true;
      }
      return false;
    };
    const bool needs_bias =
        ctx->saved_data["has_bias"].toBool() && any(2 * levels + 1, 2 * levels + 2);
    const std::array<bool, 4> needed = {any(0, levels), any(levels, 2 * levels),
                                        any(2 * levels, 2 * levels + 1), needs_bias};
    variable_list found = levels_backward(grads, all.slice(0, levels), all.slice(levels, levels),
                                          saved.back(), needed);
    for (size_t i = 0; i < 2 * levels; ++i) found[i] = if_needed(any(i, i + 1), found[i]);
    found[2 * levels] = if_needed(needed[2], found[2 * levels]);
    found[2 * levels + 1] = if_needed(needs_bias, found[2 * levels + 1]);
    return found;
  }
};

// The backward operators, whose own derivative is an error.
template <auto kBelow>
struct Once : Function<Once<kBelow>> {
  template <typename... Args>
  static variable_list forward(AutogradContext*, const Args&... args) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto found = kBelow(args...);
    if constexpr (std::is_same_v<decltype(found), const Gradients>) {
      const auto& [input, weight, offset, mask, bias] = found;
      return {input, weight, offset, mask, bias};
    } else {
      return found;
    }
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false,
                "the native deformable convolution has no second derivative; "
                "fa_detectron.ops.reference.deform_conv2d has one");
  }
};

Tensor conv(const Tensor& input, const Tensor& weight, const Tensor& offset,
            const optional<Tensor>& mask, const optional<Tensor>& bias, Sizes stride, Sizes padding,
            Sizes dilation) {
  refuse_tangents(input, weight, offset, mask, bias);
  return Conv::apply(input, weight, offset, mask, bias, stride, padding, dilation);
}

Gradients conv_backward_once(const Tensor& grad, const Tensor& input, const Tensor& weight,
                             const Tensor& offset, const optional<Tensor>& mask, Sizes stride,
                             Sizes padding, Sizes dilation, std::array<bool, 5> needed) {
  const variable_list found = Once<conv_backward>::apply(grad, input, weight, offset, mask, stride,
                                                         padding, dilation, needed);
  return {found[0], found[1], found[2], found[3], found[4]};
}

std::vector<Tensor> levels(TensorList inputs, TensorList offset_masks, const Tensor& weight,
                           const optional<Tensor>& bias) {
  refuse_tangents(inputs, offset_masks, weight, bias);
  return Levels::apply(inputs, offset_masks, weight, bias);
}

std::vector<Tensor> levels_backward_once(TensorList grads, TensorList inputs,
                                         TensorList offset_masks, const Tensor& weight,
                                         std::array<bool, 4> needed) {
  return Once<levels_backward>::apply(grads, inputs, offset_masks, weight, needed);
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
