// decode_detections has no derivative: throws where a map has a tangent, which would be lost.
#include "common/autograd.h"

#include <tuple>

namespace fa::decode {
namespace {

using at::Tensor;
using at::TensorList;

std::tuple<Tensor, Tensor, Tensor, Tensor> decode(TensorList cls_logits, TensorList box_ltrb,
                                                  TensorList obj_logits,
                                                  at::ArrayRef<double> strides,
                                                  double location_offset, double score_threshold,
                                                  int64_t topk, double nms_threshold,
                                                  int64_t max_detections) {
  refuse_tangents(cls_logits, box_ltrb, obj_logits);
  const at::AutoDispatchBelowADInplaceOrView below;
  static const auto op = find_operator<decltype(decode)>("fa_detectron::decode_detections");
  return op.call(cls_logits, box_ltrb, obj_logits, strides, location_offset, score_threshold, topk,
                 nms_threshold, max_detections);
}

void implement(torch::Library& m) { m.impl("decode_detections", TORCH_FN(decode)); }

}  // namespace

FA_AUTOGRAD(implement)

}  // namespace fa::decode
