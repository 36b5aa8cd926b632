// decode_detections on CUDA, for float32 maps: scores, selection, NMS, a launch each; no
// synchronisation.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/map_of.h"
#include "decode/arguments.h"
#include "decode/cuda/launch.h"
#include "decode/math.h"

namespace fa {
namespace decode {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> decode_op(
    at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
    at::ArrayRef<double> strides, double location_offset, double score_threshold, int64_t topk,
    double nms_threshold, int64_t max_detections) {
  check(cls_logits, box_ltrb, obj_logits, strides, topk, max_detections);
  const auto of_maps = cls_logits[0].options();
  TORCH_CHECK_VALUE(of_maps.dtype() == at::kFloat, "decoding on CUDA takes float32 maps, got ",
                    of_maps.dtype());
  TORCH_CHECK_VALUE(cls_logits.size() <= kMaxLevels, "at most ", kMaxLevels,
                    " levels run on CUDA, got ", cls_logits.size());
  TORCH_CHECK_VALUE(cls_logits[0].size(0) <= kMaxImages, "at most ", kMaxImages,
                    " images run on CUDA at a time, got ", cls_logits[0].size(0));
  const c10::cuda::CUDAGuard guard(cls_logits[0].device());
  const auto stream = at::cuda::getCurrentCUDAStream();
  DecodeWork work = {};
  work.images = static_cast<int32_t>(cls_logits[0].size(0));
  work.classes = static_cast<int32_t>(cls_logits[0].size(1));
  work.levels = static_cast<int32_t>(cls_logits.size());
  work.location_offset = static_cast<float>(location_offset);
  work.score_threshold = static_cast<float>(score_threshold);
  work.nms_threshold = rounded_down<float>(nms_threshold);
  std::vector<at::Tensor> kept;  // what the pointers point into
  int64_t candidates = 0, capacity = 0, tiles = 0;
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    const int64_t area = cls_logits[l].size(2) * cls_logits[l].size(3), pairs = area * work.classes;
    const int64_t limit = std::min({topk, area, pairs});
    TORCH_CHECK_VALUE(pairs < (int64_t{1} << 31) && work.pairs + pairs < 0xffffffffll,
                      "cls_logits[", l,
                      "] is too large, or the levels together: ", cls_logits[l].sizes());
    kept.push_back(obj_logits[l].contiguous());
    work.level[l] = {static_cast<int32_t>(cls_logits[l].size(2)),
                     static_cast<int32_t>(cls_logits[l].size(3)),
                     static_cast<int32_t>(limit),
                     static_cast<int32_t>(candidates),
                     static_cast<int32_t>(tiles),
                     static_cast<uint32_t>(work.pairs),
                     static_cast<float>(strides[l]),
                     {},
                     {},
                     kept.back().const_data_ptr<float>()};
    work.level[l].cls = map_of<float>(cls_logits[l], &kept);
    work.level[l].box = map_of<float>(box_ltrb[l], &kept);
    work.pairs += pairs;
    candidates += limit;
    capacity += std::min(topk, area);
    tiles += (area + kTileLocations - 1) / kTileLocations;
  }
  capacity = std::min(capacity, max_detections);
  TORCH_CHECK_VALUE(candidates < (int64_t{1} << 31), "too many candidates: ", candidates);
  work.candidates = static_cast<int32_t>(candidates);
  work.capacity = static_cast<int32_t>(capacity);
  work.tiles = static_cast<int32_t>(tiles);
  at::Tensor boxes = at::empty({work.images, capacity, 4}, of_maps);
  at::Tensor scores = at::empty({work.images, capacity}, of_maps);
  at::Tensor labels = at::empty({work.images, capacity}, of_maps.dtype(at::kLong));
  at::Tensor counts = at::empty({work.images}, of_maps.dtype(at::kLong));
  if (work.images == 0) return {boxes, scores, labels, counts};
  work.boxes = boxes.mutable_data_ptr<float>();
  work.scores = scores.mutable_data_ptr<float>();
  work.labels = labels.mutable_data_ptr<int64_t>();
  work.counts = counts.mutable_data_ptr<int64_t>();

  const int64_t segments = work.images * work.levels;
  kept.push_back(at::zeros({segments * (1 + kBins)}, of_maps.dtype(at::kInt)));
  work.passed = kept.back().mutable_data_ptr<int32_t>();
  work.histogram = work.passed + segments;
  at::Tensor best = at::empty({work.images, candidates}, of_maps.dtype(at::kLong));
  work.best = reinterpret_cast<uint64_t*>(best.mutable_data_ptr<int64_t>());
  if (candidates > 0) {
    kept.push_back(at::empty({work.images, work.pairs}, of_maps.dtype(at::kLong)));
    work.keys = reinterpret_cast<uint64_t*>(kept.back().mutable_data_ptr<int64_t>());
    C10_CUDA_CHECK(launch_scores(work, stream));
    C10_CUDA_CHECK(launch_select(work, stream));
  }
  const auto fits =
      static_cast<int64_t>(at::cuda::getCurrentDeviceProperties()->sharedMemPerBlockOptin);
  if (candidates > kMaxSorted || shared_bytes_to_sort(candidates) > fits) {
    // The keys are all different, but for the zeros at the end: no tie to leave to chance.
    best = std::get<0>(at::sort(best, 1, /*descending=*/true));
    work.sorted = reinterpret_cast<const uint64_t*>(best.const_data_ptr<int64_t>());
  }
  C10_CUDA_CHECK(launch_keep(work, stream));
  return {boxes, scores, labels, counts};
}

}  // namespace
}  // namespace decode
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) { m.impl("decode_detections", fa::decode::decode_op); }
