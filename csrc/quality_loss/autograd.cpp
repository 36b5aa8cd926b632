// quality_loss: the three losses with their gradients, over quality_loss_forward and
// quality_loss_backward, which know nothing of autograd. In C++, since in Python the bookkeeping
// for its many tensors takes a fifth of the time of a small batch.
#include "common/autograd.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "quality_loss/operator.h"

namespace fa {
namespace quality {
namespace {

using at::Tensor;
using at::TensorList;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensors = std::vector<Tensor>;
using Forward = Signature<std::tuple<Tensor, Tensors, Tensors>, bool>;
using Backward = Signature<void, const Tensor&, TensorList, TensorList, TensorList, const Tensor&,
                           const Tensor&, bool>;

std::tuple<Tensor, Tensors, Tensors> call_forward(const Inputs& inputs, const State& state,
                                                  bool with_gradient) {
  static const auto op = find_operator<Forward>("fa_detectron::quality_loss_forward");
  return call(op, inputs, state, with_gradient);
}

void call_backward(const Inputs& inputs, const State& state, const Tensor& grad_losses,
                   const Outputs& to) {
  static const auto op = find_operator<Backward>("fa_detectron::quality_loss_backward");
  call<void, const Tensor&, TensorList, TensorList, TensorList, const Tensor&, const Tensor&, bool>(
      op, inputs, state, grad_losses, to.cls, to.box, to.obj, to.mu, to.sigma, to.hold_negative);
}

std::tuple<Tensor, Tensor, Tensor> call_statistics(const Inputs& in) {
  static const auto op =
      find_operator<decltype(Operator<call_statistics>::call)>("fa_detectron::quality_statistics");
  const QualityOptions& o = in.options;
  return op.call(in.cls_logits, in.box_ltrb, in.obj_logits, in.gt_boxes, in.gt_classes, in.mu,
                 in.sigma, in.strides, o.location_offset, o.feature_filter, o.quality_prior,
                 o.reg_weight, name_of(o.iou_type));
}

bool on_cpu(const Tensor& x) { return x.device().is_cpu(); }

// Contiguous tensors of their shapes, values undefined; on CUDA channels_last where they are.
Tensors make_like(const Tensors& tensors) {
  Tensors made;
  for (const Tensor& x : tensors) {
    const bool last =
        !on_cpu(x) && !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
    made.push_back(
        at::empty_like(x, last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  }
  return made;
}

struct QualityLoss : torch::autograd::Function<QualityLoss> {
  // Autograd looks for its inputs among the arguments, not inside a struct.
  static Tensor forward(AutogradContext* ctx, TensorList cls_logits, TensorList box_ltrb,
                        TensorList obj_logits, TensorList gt_boxes, TensorList gt_classes,
                        const Tensor& mu, const Tensor& sigma, const Tensor& statistics,
                        const Tensor& max_iou, const Tensor& divisors, at::ArrayRef<double> strides,
                        const QualityOptions& options, bool with_gradient) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [losses, cls, obj] = call_forward(
        {cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, strides, options},
        {statistics, max_iou, divisors}, with_gradient);
    variable_list saved;
    for (const TensorList list : {cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes}) {
      saved.insert(saved.end(), list.begin(), list.end());
    }
    saved.insert(saved.end(), {mu, sigma, statistics, max_iou, divisors});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["levels"] = static_cast<int64_t>(cls_logits.size());
    ctx->saved_data["images"] = static_cast<int64_t>(gt_boxes.size());
    ctx->saved_data["strides"] = strides.vec();
    ctx->saved_data["choices"] = std::make_tuple(options.feature_filter, options.quality_prior,
                                                 static_cast<int64_t>(options.iou_type));
    ctx->saved_data["numbers"] = std::vector<double>{options.reg_weight, options.location_offset,
                                                     options.focal_alpha, options.focal_gamma};
    ctx->saved_data["negative_cls"] = cls;
    ctx->saved_data["negative_obj"] = obj;
    return losses;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_losses) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "quality_weighted_loss has no second derivative: call backward without "
                "create_graph=True");
    const variable_list saved = ctx->get_saved_variables();
    const int64_t levels = ctx->saved_data["levels"].toInt();
    const int64_t images = ctx->saved_data["images"].toInt();
    auto next = saved.begin();
    const auto take = [&](int64_t count) {
      next += count;
      return Tensors(next - count, next);
    };
    const Tensors cls = take(levels), box = take(levels), obj = take(levels);
    const Tensors gt_boxes = take(images), gt_classes = take(images), rest = take(5);

    const auto strides = ctx->saved_data["strides"].toDoubleVector();
    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    const auto [filter, prior, type] =
        ctx->saved_data["choices"].to<std::tuple<bool, bool, int64_t>>();
    const QualityOptions options{
        filter, prior, static_cast<IouType>(type), numbers[0], numbers[1], numbers[2], numbers[3]};

    // What forward made becomes the gradients, in place; a second backward makes it anew.
    Tensors grad_cls = ctx->saved_data["negative_cls"].toTensorVector();
    Tensors grad_obj = ctx->saved_data["negative_obj"].toTensorVector();
    const bool hold_negative = !grad_cls.empty();
    ctx->saved_data["negative_cls"] = ctx->saved_data["negative_obj"] = Tensors();
    if (!hold_negative) grad_cls = make_like(cls), grad_obj = make_like(obj);
    const Tensors grad_box = make_like(box), grad_priors = make_like({rest[0], rest[1]});
    call_backward({cls, box, obj, gt_boxes, gt_classes, rest[0], rest[1], strides, options},
                  {rest[2], rest[3], rest[4]}, grad_losses[0],
                  {grad_cls, grad_box, grad_obj, grad_priors[0], grad_priors[1], hold_negative});

    variable_list grads;
    for (const Tensors& list : {grad_cls, grad_box, grad_obj, Tensors(2 * images), grad_priors}) {
      grads.insert(grads.end(), list.begin(), list.end());
    }
    grads.resize(grads.size() +
                 6);  // statistics, max_iou, divisors, strides, options, with_gradient
    return grads;
  }
};

bool any_requires_grad(TensorList maps) {
  for (const Tensor& x : maps)
    if (x.requires_grad()) return true;
  return false;
}

Tensor with_autograd(const Inputs& in, const State& state) {
  refuse_tangents(in.cls_logits, in.box_ltrb, in.obj_logits, in.mu, in.sigma);
  const bool with_gradient = on_cpu(in.mu) && at::GradMode::is_enabled() &&
                             (any_requires_grad(in.cls_logits) || any_requires_grad(in.obj_logits));
  return QualityLoss::apply(in.cls_logits, in.box_ltrb, in.obj_logits, in.gt_boxes, in.gt_classes,
                            in.mu, in.sigma, state.statistics, state.max_iou, state.divisors,
                            in.strides, in.options, with_gradient);
}

Tensor without_autograd(const Inputs& in, const State& state) {
  return std::get<0>(call_forward(in, state, false));
}

// The statistics have no derivative; maps with a tangent come without it.
std::tuple<Tensor, Tensor, Tensor> statistics(const Inputs& in) {
  refuse_tangents(in.cls_logits, in.box_ltrb, in.obj_logits, in.mu, in.sigma);
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_statistics(in);
}

void implement(torch::Library& m) {
  m.impl("quality_statistics", Operator<statistics>::call);
  m.impl("quality_loss", Operator<with_autograd>::call);
}

}  // namespace

FA_AUTOGRAD(implement)

TORCH_LIBRARY_IMPL(fa_detectron, CPU, m) {
  m.impl("quality_loss", Operator<without_autograd>::call);
}
#if defined(FA_WITH_CUDA)
TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) {
  m.impl("quality_loss", Operator<without_autograd>::call);
}
#endif

}  // namespace quality
}  // namespace fa
