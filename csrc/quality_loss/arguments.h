// Arguments of the quality-weighted loss's operators and their checks, the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "quality_loss/math.h"

namespace fa {
namespace quality {

// The inputs that all three operators share, as in ops/schemas.py: N images, L levels, K classes.
struct Inputs {
  at::TensorList cls_logits, box_ltrb, obj_logits;  // a level: (N,K,H,W), (N,4,H,W), (N,1,H,W)
  at::TensorList gt_boxes, gt_classes;              // an image: (G,4) xyxy pixels, (G,) int64
  const at::Tensor& mu;                             // (L,K,2) or (K,2)
  const at::Tensor& sigma;
  at::ArrayRef<double> strides;
  QualityOptions options;
};

// What quality_statistics returned for the same inputs, and the divisors (2; float64) of the
// losses.
struct State {
  const at::Tensor& statistics;
  const at::Tensor& max_iou;
  const at::Tensor& divisors;
};

// What backward writes into, like the inputs: contiguous, or on CUDA channels_last. hold_negative:
// cls and obj hold the gradients of loss_neg by cls_logits and by sigmoid(obj_logits) already.
struct Outputs {
  at::TensorList cls, box, obj;
  const at::Tensor& mu;
  const at::Tensor& sigma;
  bool hold_negative;
};

// Throws where sizes, dtypes or devices do not fit, or a class is out of [0, K).
void check(const Inputs& inputs);

// Throws where the state is not what quality_statistics returned for the same inputs.
void check_state(const State& state, int64_t boxes, int64_t images, int64_t locations,
                 int64_t columns, const at::Tensor& mu);

// Throws where the upstream gradient is not (3,), or an output is not like its input.
void check_outputs(const Inputs& inputs, const at::Tensor& grad_losses, const Outputs& outputs);

// Whether the kernels for double run; asked before `check`.
bool is_double(const Inputs& inputs);

// The names of the IoU types in the schemas.
IouType iou_type(const std::string& name);
std::string name_of(IouType type);

}  // namespace quality
}  // namespace fa
