#include "decode/arguments.h"

#include <ATen/ATen.h>

namespace fa {
namespace decode {

void check(at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
           at::ArrayRef<double> strides, int64_t topk, int64_t max_detections) {
  const size_t levels = cls_logits.size();
  TORCH_CHECK_VALUE(levels > 0 && box_ltrb.size() == levels && obj_logits.size() == levels &&
                        strides.size() == levels,
                    "cls_logits, box_ltrb, obj_logits and strides need one entry a level, got ",
                    levels, ", ", box_ltrb.size(), ", ", obj_logits.size(), " and ",
                    strides.size());
  TORCH_CHECK_VALUE(topk >= 0 && max_detections >= 0,
                    "topk and max_detections must not be negative, got ", topk, " and ",
                    max_detections);
  const auto dtype = cls_logits[0].scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kDouble,
                    "the maps must be float32 or float64, got ", dtype);
  for (size_t l = 0; l < levels; ++l) {
    TORCH_CHECK_VALUE(cls_logits[l].dim() == 4, "cls_logits[", l, "] must be (N, K, H, W), got ",
                      cls_logits[l].sizes());
    const auto fits = [&](const at::Tensor& map, int64_t channels, const char* name) {
      const int64_t n = cls_logits[0].size(0), h = cls_logits[l].size(2), w = cls_logits[l].size(3);
      TORCH_CHECK_VALUE(
          map.sizes() == at::IntArrayRef({n, channels, h, w}) && map.scalar_type() == dtype, name,
          "[", l, "] must be (", n, ", ", channels, ", ", h, ", ", w, ") ", dtype, ", got ",
          map.sizes(), " ", map.scalar_type());
      TORCH_CHECK_VALUE(map.device() == cls_logits[0].device(), name, "[", l, "] is on ",
                        map.device(), ", cls_logits[0] on ", cls_logits[0].device());
    };
    fits(cls_logits[l], cls_logits[0].size(1), "cls_logits");
    fits(box_ltrb[l], 4, "box_ltrb");
    fits(obj_logits[l], 1, "obj_logits");
  }
}

}  // namespace decode
}  // namespace fa
