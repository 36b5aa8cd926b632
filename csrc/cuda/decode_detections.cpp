// decode_detections on CUDA, for float32 maps: keys, torch's selection, NMS; no synchronisation.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "core/decode_arguments.h"
#include "cuda/decode_launch.h"

namespace fa {
namespace decode {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> decode_op(
    at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
    at::ArrayRef<double> strides, double location_offset, double score_threshold, int64_t topk,
    double nms_threshold, int64_t max_detections) {
  check(cls_logits, box_ltrb, obj_logits, strides, topk, max_detections);
  const auto of_maps = cls_logits[0].options();
  TORCH_CHECK(of_maps.dtype() == at::kFloat, "decoding on CUDA takes float32 maps, got ",
              of_maps.dtype());
  TORCH_CHECK(cls_logits.size() <= kMaxLevels, "at most ", kMaxLevels, " levels run on CUDA, got ",
              cls_logits.size());
  TORCH_CHECK(cls_logits[0].size(0) <= kMaxImages, "at most ", kMaxImages,
              " images run on CUDA at a time, got ", cls_logits[0].size(0));
  const c10::cuda::CUDAGuard guard(cls_logits[0].device());
  const auto stream = at::cuda::getCurrentCUDAStream();
  KeepWork keep = {};
  keep.images = static_cast<int32_t>(cls_logits[0].size(0));
  keep.classes = static_cast<int32_t>(cls_logits[0].size(1));
  keep.levels = static_cast<int32_t>(cls_logits.size());
  keep.location_offset = static_cast<float>(location_offset);
  keep.nms_threshold = nms_threshold;
  std::vector<at::Tensor> kept, best;  // kept: what the pointers point into
  int64_t candidates = 0, capacity = 0;
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    const auto cls = cls_logits[l].contiguous(), box = box_ltrb[l].contiguous(),
               obj = obj_logits[l].contiguous();
    kept.insert(kept.end(), {cls, box, obj});
    const int64_t area = cls.size(2) * cls.size(3), pairs = area * keep.classes;
    TORCH_CHECK(pairs < (int64_t{1} << 31), "cls_logits[", l, "] is too large: ", cls.sizes());
    const int64_t limit = std::min({topk, area, pairs});
    keep.level[l] = {static_cast<int32_t>(cls.size(2)), static_cast<int32_t>(cls.size(3)),
                     static_cast<int32_t>(limit),       static_cast<int32_t>(candidates),
                     static_cast<float>(strides[l]),    box.const_data_ptr<float>()};
    candidates += limit;
    capacity += std::min(topk, area);
    if (limit == 0 || keep.images == 0) continue;
    const at::Tensor keys = at::empty({keep.images, pairs}, of_maps.dtype(at::kLong));
    C10_CUDA_CHECK(launch_keys({keep.images, keep.classes, static_cast<int32_t>(area),
                                static_cast<float>(score_threshold), cls.const_data_ptr<float>(),
                                obj.const_data_ptr<float>(), keys.mutable_data_ptr<int64_t>()},
                               stream));
    best.push_back(
        std::get<0>(keys.topk(limit, 1)));  // the keys are all different: no tie to leave to chance
  }
  capacity = std::min(capacity, max_detections);
  TORCH_CHECK(candidates < (int64_t{1} << 31), "too many candidates: ", candidates);
  keep.candidates = static_cast<int32_t>(candidates);
  keep.capacity = static_cast<int32_t>(capacity);
  at::Tensor boxes = at::zeros({keep.images, capacity, 4}, of_maps);
  at::Tensor scores = at::zeros({keep.images, capacity}, of_maps);
  at::Tensor labels = at::zeros({keep.images, capacity}, of_maps.dtype(at::kLong));
  at::Tensor counts = at::zeros({keep.images}, of_maps.dtype(at::kLong));
  if (!best.empty() && capacity > 0) {
    const at::Tensor keys = at::cat(best, 1);  // (N, C)
    // By score alone, and stable: equal scores keep the order of levels, then of cells.
    const at::Tensor order = std::get<1>(at::sort(keys.bitwise_right_shift(32), true, 1, true));
    keep.keys = keys.const_data_ptr<int64_t>();
    keep.order = order.const_data_ptr<int64_t>();
    keep.boxes = boxes.mutable_data_ptr<float>();
    keep.scores = scores.mutable_data_ptr<float>();
    keep.labels = labels.mutable_data_ptr<int64_t>();
    keep.counts = counts.mutable_data_ptr<int64_t>();
    C10_CUDA_CHECK(launch_keep(keep, stream));
  }
  return {boxes, scores, labels, counts};
}

}  // namespace
}  // namespace decode
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) { m.impl("decode_detections", fa::decode::decode_op); }
