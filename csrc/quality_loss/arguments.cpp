#include "quality_loss/arguments.h"

#include <ATen/ATen.h>

namespace fa {
namespace quality {

IouType iou_type(const std::string& name) {
  if (name == "giou") return IouType::kGiou;
  if (name == "linear_iou") return IouType::kLinearIou;
  TORCH_CHECK_VALUE(name == "iou", "iou_type must be giou, linear_iou or iou, got ", name);
  return IouType::kIou;
}

std::string name_of(IouType type) {
  switch (type) {
    case IouType::kGiou:
      return "giou";
    case IouType::kLinearIou:
      return "linear_iou";
    default:
      return "iou";
  }
}

bool is_double(const Inputs& inputs) {
  return !inputs.cls_logits.empty() && inputs.cls_logits[0].scalar_type() == at::kDouble;
}

void check(const Inputs& in) {
  const size_t levels = in.cls_logits.size();
  TORCH_CHECK_VALUE(levels > 0 && in.box_ltrb.size() == levels && in.obj_logits.size() == levels &&
                        in.strides.size() == levels,
                    "cls_logits, box_ltrb, obj_logits and strides need one entry a level, got ",
                    levels, ", ", in.box_ltrb.size(), ", ", in.obj_logits.size(), " and ",
                    in.strides.size());
  const at::Tensor& first = in.cls_logits[0];
  TORCH_CHECK_VALUE(first.dim() == 4, "cls_logits[0] must be (N, K, H, W), got ", first.sizes());
  TORCH_CHECK_VALUE(first.scalar_type() == at::kFloat || first.scalar_type() == at::kDouble,
                    "the maps must be float32 or float64, got ", first.scalar_type());
  const int64_t n = first.size(0), k = first.size(1);
  for (size_t i = 0; i < levels; ++i) {
    TORCH_CHECK_VALUE(in.cls_logits[i].dim() == 4, "cls_logits[", i, "] must be (N, K, H, W), got ",
                      in.cls_logits[i].sizes());
    const int64_t h = in.cls_logits[i].size(2), w = in.cls_logits[i].size(3);
    const auto fits = [&](const char* name, const at::Tensor& map, int64_t channels) {
      TORCH_CHECK_VALUE(map.sizes() == at::IntArrayRef({n, channels, h, w}), name, "[", i,
                        "] must be (", n, ", ", channels, ", ", h, ", ", w, "), got ", map.sizes());
      TORCH_CHECK_VALUE(map.scalar_type() == first.scalar_type() && map.device() == first.device(),
                        name, "[", i, "] is ", map.scalar_type(), " on ", map.device(),
                        ", cls_logits[0] is ", first.scalar_type(), " on ", first.device());
    };
    fits("cls_logits", in.cls_logits[i], k);
    fits("box_ltrb", in.box_ltrb[i], 4);
    fits("obj_logits", in.obj_logits[i], 1);
    TORCH_CHECK_VALUE(in.strides[i] > 0, "strides[", i, "] must be positive, got ", in.strides[i]);
  }
  TORCH_CHECK_VALUE(static_cast<int64_t>(in.gt_boxes.size()) == n &&
                        static_cast<int64_t>(in.gt_classes.size()) == n,
                    "gt_boxes and gt_classes need one entry an image (", n, "), got ",
                    in.gt_boxes.size(), " and ", in.gt_classes.size());
  for (int64_t i = 0; i < n; ++i) {
    const at::Tensor &boxes = in.gt_boxes[i], &classes = in.gt_classes[i];
    TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4, "gt_boxes[", i,
                      "] must be (G, 4), got ", boxes.sizes());
    TORCH_CHECK_VALUE(classes.dim() == 1 && classes.size(0) == boxes.size(0), "gt_classes[", i,
                      "] must be (", boxes.size(0), ",), got ", classes.sizes());
    TORCH_CHECK_VALUE(boxes.device() == first.device() && classes.device() == first.device(),
                      "gt_boxes[", i, "] and gt_classes[", i, "] must be on ", first.device());
  }
  const auto fits = [&](const char* name, const at::Tensor& x) {
    const bool shared = x.sizes() == at::IntArrayRef({k, 2});
    TORCH_CHECK_VALUE(shared || x.sizes() == at::IntArrayRef({static_cast<int64_t>(levels), k, 2}),
                      name, " must be (K, 2) or (L, K, 2) with L = ", levels, ", K = ", k, ", got ",
                      x.sizes());
    TORCH_CHECK_VALUE(x.scalar_type() == first.scalar_type() && x.device() == first.device(), name,
                      " must be ", first.scalar_type(), " on ", first.device());
  };
  fits("mu", in.mu);
  fits("sigma", in.sigma);
  TORCH_CHECK_VALUE(in.mu.dim() == in.sigma.dim(), "mu and sigma differ in shape");
}

void check_state(const State& state, int64_t boxes, int64_t images, int64_t locations,
                 int64_t columns, const at::Tensor& mu) {
  const auto& [statistics, max_iou, divisors] = state;
  TORCH_CHECK_VALUE(
      statistics.sizes() == at::IntArrayRef({boxes, columns}) &&
          statistics.scalar_type() == at::kDouble && statistics.is_contiguous() &&
          max_iou.sizes() == at::IntArrayRef({images, locations}) &&
          max_iou.scalar_type() == mu.scalar_type() && max_iou.is_contiguous(),
      "statistics and max_iou must be what quality_statistics returned for these inputs");
  TORCH_CHECK_VALUE(
      divisors.sizes() == at::IntArrayRef({2}) && divisors.scalar_type() == at::kDouble,
      "divisors must be (2,) float64, got ", divisors.sizes(), " ", divisors.scalar_type());
  for (const at::Tensor* part : {&statistics, &max_iou, &divisors}) {
    TORCH_CHECK_VALUE(part->device() == mu.device(), "statistics, max_iou and divisors must be on ",
                      mu.device(), ", got ", part->device());
  }
}

void check_outputs(const Inputs& in, const at::Tensor& grad_losses, const Outputs& outputs) {
  TORCH_CHECK_VALUE(
      grad_losses.sizes() == at::IntArrayRef({3}) && grad_losses.device() == in.mu.device(),
      "grad_losses must be (3,) on ", in.mu.device(), ", got ", grad_losses.sizes(), " on ",
      grad_losses.device());
  const auto fits = [](const char* name, const at::Tensor& grad, const at::Tensor& like) {
    const bool dense = grad.is_contiguous() || (!grad.device().is_cpu() &&
                                                grad.is_contiguous(at::MemoryFormat::ChannelsLast));
    TORCH_CHECK_VALUE(grad.sizes() == like.sizes() && grad.scalar_type() == like.scalar_type() &&
                          grad.device() == like.device() && dense,
                      name, " must be contiguous, ", like.sizes(), " ", like.scalar_type(),
                      ", got ", grad.sizes(), " ", grad.scalar_type());
  };
  const size_t levels = in.cls_logits.size();
  TORCH_CHECK_VALUE(
      outputs.cls.size() == levels && outputs.box.size() == levels && outputs.obj.size() == levels,
      "grad_cls, grad_box and grad_obj need one entry a level (", levels, ")");
  for (size_t i = 0; i < levels; ++i) {
    fits("grad_cls", outputs.cls[i], in.cls_logits[i]);
    fits("grad_box", outputs.box[i], in.box_ltrb[i]);
    fits("grad_obj", outputs.obj[i], in.obj_logits[i]);
  }
  fits("grad_mu", outputs.mu, in.mu);
  fits("grad_sigma", outputs.sigma, in.sigma);
}

}  // namespace quality
}  // namespace fa
