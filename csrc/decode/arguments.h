// Checks of decode_detections' arguments, the same on every device.
#pragma once

#include <ATen/core/Tensor.h>

namespace fa {
namespace decode {

// Throws where sizes or dtypes do not fit, or a limit is negative.
void check(at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
           at::ArrayRef<double> strides, int64_t topk, int64_t max_detections);

}  // namespace decode
}  // namespace fa
