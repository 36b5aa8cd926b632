// Between the long argument lists of the loss's operators (ops/schemas.py), written out here alone,
// and the structs that the code works with.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include "quality_loss/arguments.h"

namespace fa {
namespace quality {

// Of quality_loss, quality_loss_forward and quality_loss_backward, which differ in the rest.
template <typename Result, typename... Rest>
using Signature = Result(at::TensorList cls_logits, at::TensorList box_ltrb,
                         at::TensorList obj_logits, at::TensorList gt_boxes,
                         at::TensorList gt_classes, const at::Tensor& mu, const at::Tensor& sigma,
                         const at::Tensor& statistics, const at::Tensor& max_iou,
                         const at::Tensor& divisors, at::ArrayRef<double> strides,
                         double location_offset, bool feature_filter, bool quality_prior,
                         double reg_weight, std::string iou_type, double focal_alpha,
                         double focal_gamma, Rest... rest);

// Operator<function>::call is what the dispatcher takes, of a function that takes the structs.
template <auto kFunction>
struct Operator;

// quality_statistics
template <typename Result, Result (*kFunction)(const Inputs&)>
struct Operator<kFunction> {
  static Result call(at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
                     at::TensorList gt_boxes, at::TensorList gt_classes, const at::Tensor& mu,
                     const at::Tensor& sigma, at::ArrayRef<double> strides, double location_offset,
                     bool feature_filter, bool quality_prior, double reg_weight, std::string type) {
    const QualityOptions options{
        feature_filter, quality_prior, iou_type(type), reg_weight, location_offset, 0, 0};
    return kFunction(
        {cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, strides, options});
  }
};

template <typename Result, typename... Rest,
          Result (*kFunction)(const Inputs&, const State&, Rest...)>
struct Operator<kFunction> {
  static Result call(at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
                     at::TensorList gt_boxes, at::TensorList gt_classes, const at::Tensor& mu,
                     const at::Tensor& sigma, const at::Tensor& statistics,
                     const at::Tensor& max_iou, const at::Tensor& divisors,
                     at::ArrayRef<double> strides, double location_offset, bool feature_filter,
                     bool quality_prior, double reg_weight, std::string type, double focal_alpha,
                     double focal_gamma, Rest... rest) {
    const QualityOptions options{feature_filter,  quality_prior, iou_type(type), reg_weight,
                                 location_offset, focal_alpha,   focal_gamma};
    return kFunction(
        {cls_logits, box_ltrb, obj_logits, gt_boxes, gt_classes, mu, sigma, strides, options},
        {statistics, max_iou, divisors}, rest...);
  }
};

// The way back: calls an operator by the dispatcher.
template <typename Result, typename... Rest>
Result call(const c10::TypedOperatorHandle<Signature<Result, Rest...>>& op, const Inputs& in,
            const State& state, Rest... rest) {
  const QualityOptions& o = in.options;
  return op.call(in.cls_logits, in.box_ltrb, in.obj_logits, in.gt_boxes, in.gt_classes, in.mu,
                 in.sigma, state.statistics, state.max_iou, state.divisors, in.strides,
                 o.location_offset, o.feature_filter, o.quality_prior, o.reg_weight,
                 name_of(o.iou_type), o.focal_alpha, o.focal_gamma, rest...);
}

}  // namespace quality
}  // namespace fa
