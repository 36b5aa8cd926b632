// quality_loss: the three losses with their gradients, over quality_loss_forward and
// quality_loss_backward, which know nothing of autograd. In C++, since in Python the bookkeeping
// for its many tensors takes a fifth of the time of a small batch.
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

namespace fa {
namespace quality {
namespace {

using at::Tensor;
using at::TensorList;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Tensors = std::vector<Tensor>;
// strides, location_offset, feature_filter, quality_prior, reg_weight, iou_type, focal_alpha,
// focal_gamma
using Options =
    std::tuple<std::vector<double>, double, bool, bool, double, std::string, double, double>;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::tuple<Tensor, Tensors, Tensors> call_forward(TensorList cls_logits, TensorList box_ltrb,
                                                  TensorList obj_logits, TensorList gt_boxes,
                                                  TensorList gt_classes, const Tensor& mu,
                                                  const Tensor& sigma, const Tensor& statistics,
                                                  const Tensor& max_iou, const Tensor& divisors,
                                                  const Options& options, bool with_gradient) {
  static const auto op = find<std::tuple<Tensor, Tensors, Tensors>(
      TensorList, TensorList, TensorList, TensorList, TensorList, const Tensor&, const Tensor&,
      const Tensor&, const Tensor&, const Tensor&, at::ArrayRef<double>, double, bool, bool, double,
      std::string, double, double, bool)>("fa_detectron::quality_loss_forward");
  const auto& [strides, offset, filter, prior, weight, type, alpha, gamma] = options;
  return op.call(cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, statistics,
                 max_iou, divisors, strides, offset, filter, prior, weight, type, alpha, gamma,
                 with_gradient);
}

void call_backward(const Tensor& grad_losses, TensorList cls_logits, TensorList box_ltrb,
                   TensorList obj_logits, TensorList gt_boxes, TensorList gt_classes,
                   const Tensor& mu, const Tensor& sigma, const Tensor& statistics,
                   const Tensor& max_iou, const Tensor& divisors, const Options& options,
                   TensorList grad_cls, TensorList grad_box, TensorList grad_obj,
                   const Tensor& grad_mu, const Tensor& grad_sigma, bool hold_negative) {
  static const auto op =
      find<void(const Tensor&, TensorList, TensorList, TensorList, TensorList, TensorList,
                const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                at::ArrayRef<double>, double, bool, bool, double, std::string, double, double,
                TensorList, TensorList, TensorList, const Tensor&, const Tensor&, bool)>(
          "fa_detectron::quality_loss_backward");
  const auto& [strides, offset, filter, prior, weight, type, alpha, gamma] = options;
  op.call(grad_losses, cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma,
          statistics, max_iou, divisors, strides, offset, filter, prior, weight, type, alpha, gamma,
          grad_cls, grad_box, grad_obj, grad_mu, grad_sigma, hold_negative);
}

// Contiguous tensors of their shapes, values undefined.
Tensors make_like(const Tensors& tensors) {
  Tensors made;
  for (const Tensor& x : tensors) made.push_back(x.new_empty_symint(x.sym_sizes()));
  return made;
}

struct QualityLoss : torch::autograd::Function<QualityLoss> {
  static Tensor forward(AutogradContext* ctx, TensorList cls_logits, TensorList box_ltrb,
                        TensorList obj_logits, TensorList gt_boxes, TensorList gt_classes,
                        const Tensor& mu, const Tensor& sigma, const Tensor& statistics,
                        const Tensor& max_iou, const Tensor& divisors, const Options& options,
                        bool with_gradient) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [losses, cls, obj] =
        call_forward(cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, statistics,
                     max_iou, divisors, options, with_gradient);
    variable_list saved;
    for (const TensorList list : {cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes}) {
      saved.insert(saved.end(), list.begin(), list.end());
    }
    saved.insert(saved.end(), {mu, sigma, statistics, max_iou, divisors});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["levels"] = static_cast<int64_t>(cls_logits.size());
    ctx->saved_data["images"] = static_cast<int64_t>(gt_boxes.size());
    const auto& [strides, offset, filter, prior, weight, type, alpha, gamma] = options;
    ctx->saved_data["strides"] = strides;
    ctx->saved_data["numbers"] = std::vector<double>{offset, weight, alpha, gamma};
    ctx->saved_data["switches"] = std::make_tuple(filter, prior, type);
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

    const auto numbers = ctx->saved_data["numbers"].toDoubleVector();
    const auto [filter, prior, type] =
        ctx->saved_data["switches"].to<std::tuple<bool, bool, std::string>>();
    const Options options(ctx->saved_data["strides"].toDoubleVector(), numbers[0], filter, prior,
                          numbers[1], type, numbers[2], numbers[3]);

    // What forward made becomes the gradients, in place; a second backward makes it anew.
    Tensors grad_cls = ctx->saved_data["negative_cls"].toTensorVector();
    Tensors grad_obj = ctx->saved_data["negative_obj"].toTensorVector();
    const bool hold_negative = !grad_cls.empty();
    ctx->saved_data["negative_cls"] = ctx->saved_data["negative_obj"] = Tensors();
    if (!hold_negative) grad_cls = make_like(cls), grad_obj = make_like(obj);
    const Tensors grad_box = make_like(box), grad_priors = make_like({rest[0], rest[1]});
    call_backward(grad_losses[0], cls, box, obj, gt_boxes, gt_classes, rest[0], rest[1], rest[2],
                  rest[3], rest[4], options, grad_cls, grad_box, grad_obj, grad_priors[0],
                  grad_priors[1], hold_negative);

    variable_list grads;
    for (const Tensors& list : {grad_cls, grad_box, grad_obj, Tensors(2 * images), grad_priors}) {
      grads.insert(grads.end(), list.begin(), list.end());
    }
    grads.resize(grads.size() + 5);  // statistics, max_iou, divisors, options, with_gradient
    return grads;
  }
};

bool wants_gradient(TensorList maps) {
  for (const Tensor& x : maps)
    if (x.requires_grad()) return true;
  return false;
}

Tensor with_autograd(TensorList cls_logits, TensorList box_ltrb, TensorList obj_logits,
                     TensorList gt_boxes, TensorList gt_classes, const Tensor& mu,
                     const Tensor& sigma, const Tensor& statistics, const Tensor& max_iou,
                     const Tensor& divisors, at::ArrayRef<double> strides, double location_offset,
                     bool feature_filter, bool quality_prior, double reg_weight,
                     std::string iou_type, double focal_alpha, double focal_gamma) {
  const bool with_gradient = mu.device().is_cpu() && at::GradMode::is_enabled() &&
                             (wants_gradient(cls_logits) || wants_gradient(obj_logits));
  const Options options(strides.vec(), location_offset, feature_filter, quality_prior, reg_weight,
                        iou_type, focal_alpha, focal_gamma);
  return QualityLoss::apply(cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma,
                            statistics, max_iou, divisors, options, with_gradient);
}

Tensor without_autograd(TensorList cls_logits, TensorList box_ltrb, TensorList obj_logits,
                        TensorList gt_boxes, TensorList gt_classes, const Tensor& mu,
                        const Tensor& sigma, const Tensor& statistics, const Tensor& max_iou,
                        const Tensor& divisors, at::ArrayRef<double> strides,
                        double location_offset, bool feature_filter, bool quality_prior,
                        double reg_weight, std::string iou_type, double focal_alpha,
                        double focal_gamma) {
  const Options options(strides.vec(), location_offset, feature_filter, quality_prior, reg_weight,
                        iou_type, focal_alpha, focal_gamma);
  return std::get<0>(call_forward(cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma,
                                  statistics, max_iou, divisors, options, false));
}

}  // namespace
}  // namespace quality
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, Autograd, m) {
  m.impl("quality_loss", fa::quality::with_autograd);
}
TORCH_LIBRARY_IMPL(fa_detectron, CompositeExplicitAutograd, m) {
  m.impl("quality_loss", fa::quality::without_autograd);
}
