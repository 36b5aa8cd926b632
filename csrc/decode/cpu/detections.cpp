// decode_detections on the CPU.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "decode/arguments.h"
#include "decode/cpu/selection.h"

namespace fa {
namespace decode {
namespace {

struct Options {
  double location_offset, score_threshold;
  int64_t topk;
  double nms_threshold;
  int64_t max_detections;
};

template <typename S>
struct Detection {
  S score;
  int64_t cls;
  Corners<S> box;
};

template <typename S>
Detection<S> make_detection(const Level<S>& level, int64_t image, int64_t classes, S offset,
                            const Candidate<S>& candidate) {
  const int64_t area = level.height * level.width, at = candidate.index / classes;
  const S* box = level.box + image * 4 * area;
  const S x = (S(at % level.width) + offset) * level.stride;
  const S y = (S(at / level.width) + offset) * level.stride;
  return {candidate.score,
          candidate.index % classes,
          {x - box[at], y - box[area + at], x + box[2 * area + at], y + box[3 * area + at]}};
}

// Greedy class-wise NMS over the levels' candidates (each level's best first), in falling score and
// for equal scores in the order of levels, until max_detections are kept.
template <typename S>
std::vector<Detection<S>> keep(const std::vector<Level<S>>& levels, int64_t image, int64_t classes,
                               const std::vector<std::vector<Candidate<S>>>& candidates,
                               const Options& options) {
  const S nms_threshold = rounded_down<S>(options.nms_threshold);
  std::vector<Detection<S>> kept;
  std::vector<std::vector<size_t>> of_class(classes);  // positions in kept
  std::vector<size_t> next(levels.size(), 0);
  while (static_cast<int64_t>(kept.size()) < options.max_detections) {
    size_t best = levels.size();
    for (size_t l = 0; l < levels.size(); ++l) {
      if (next[l] == candidates[l].size()) continue;
      if (best == levels.size() ||
          candidates[l][next[l]].score > candidates[best][next[best]].score)
        best = l;
    }
    if (best == levels.size()) break;
    const Detection<S> detection = make_detection(
        levels[best], image, classes, S(options.location_offset), candidates[best][next[best]++]);
    std::vector<size_t>& same = of_class[detection.cls];
    const bool suppressed = std::any_of(same.begin(), same.end(), [&](size_t other) {
      return suppresses(kept[other].box, detection.box, nms_threshold);
    });
    if (suppressed) continue;
    same.push_back(kept.size());
    kept.push_back(detection);
  }
  return kept;
}

template <typename S>
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> run(at::TensorList cls_logits,
                                                               at::TensorList box_ltrb,
                                                               at::TensorList obj_logits,
                                                               at::ArrayRef<double> strides,
                                                               const Options& options) {
  const int64_t images = cls_logits[0].size(0), classes = cls_logits[0].size(1);
  std::vector<at::Tensor> maps;  // keeps the contiguous copies
  const auto data = [&](const at::Tensor& map) {
    maps.push_back(map.contiguous());
    return maps.back().const_data_ptr<S>();
  };
  std::vector<Level<S>> levels;
  int64_t capacity = 0;
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    const int64_t height = cls_logits[l].size(2), width = cls_logits[l].size(3);
    const int64_t limit = std::min(options.topk, height * width);
    levels.push_back({height, width, S(strides[l]), data(cls_logits[l]), data(box_ltrb[l]),
                      data(obj_logits[l]), limit});
    capacity += limit;
  }
  capacity = std::min(capacity, options.max_detections);

  // One task a band of locations; the bands' results are sorted together, in any order.
  struct Task {
    int64_t image, level, begin, end;
  };
  constexpr int64_t kBand = 4096;
  std::vector<Task> tasks;
  for (int64_t n = 0; n < images; ++n) {
    for (size_t l = 0; l < levels.size(); ++l) {
      const int64_t area = levels[l].limit > 0 ? levels[l].height * levels[l].width : 0;
      for (int64_t begin = 0; begin < area; begin += kBand) {
        tasks.push_back({n, static_cast<int64_t>(l), begin, std::min(area, begin + kBand)});
      }
    }
  }
  std::vector<std::atomic<S>> bounds(images * levels.size());
  for (auto& bound : bounds) bound = 0;
  std::vector<std::vector<Candidate<S>>> found(tasks.size());
  const S threshold = S(options.score_threshold);
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const Task& task = tasks[i];
      Selection<S> selection(levels[task.level], task.image, classes, threshold,
                             &bounds[task.image * levels.size() + task.level]);
      selection.add(task.begin, task.end);
      found[i] = std::move(selection.finish());
    }
  });

  const auto of_maps = cls_logits[0].options();
  at::Tensor boxes = at::zeros({images, capacity, 4}, of_maps);
  at::Tensor scores = at::zeros({images, capacity}, of_maps);
  at::Tensor labels = at::zeros({images, capacity}, of_maps.dtype(at::kLong));
  at::Tensor counts = at::zeros({images}, of_maps.dtype(at::kLong));
  S *to_box = boxes.mutable_data_ptr<S>(), *to_score = scores.mutable_data_ptr<S>();
  int64_t* to_label = labels.mutable_data_ptr<int64_t>();
  int64_t* to_count = counts.mutable_data_ptr<int64_t>();
  at::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      std::vector<std::vector<Candidate<S>>> candidates(levels.size());
      for (size_t i = 0; i < tasks.size(); ++i) {
        if (tasks[i].image != n) continue;
        auto& of_level = candidates[tasks[i].level];
        of_level.insert(of_level.end(), found[i].begin(), found[i].end());
      }
      for (size_t l = 0; l < levels.size(); ++l) {
        std::sort(candidates[l].begin(), candidates[l].end(), Better());
        if (static_cast<int64_t>(candidates[l].size()) > levels[l].limit) {
          candidates[l].resize(levels[l].limit);
        }
      }
      const std::vector<Detection<S>> kept = keep(levels, n, classes, candidates, options);
      to_count[n] = static_cast<int64_t>(kept.size());
      for (size_t i = 0; i < kept.size(); ++i) {
        const Detection<S>& detection = kept[i];
        const int64_t at = n * capacity + static_cast<int64_t>(i);
        to_score[at] = detection.score;
        to_label[at] = detection.cls;
        to_box[4 * at] = detection.box.x1, to_box[4 * at + 1] = detection.box.y1;
        to_box[4 * at + 2] = detection.box.x2, to_box[4 * at + 3] = detection.box.y2;
      }
    }
  });
  return {boxes, scores, labels, counts};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> decode_op(
    at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
    at::ArrayRef<double> strides, double location_offset, double score_threshold, int64_t topk,
    double nms_threshold, int64_t max_detections) {
  check(cls_logits, box_ltrb, obj_logits, strides, topk, max_detections);
  const auto dtype = cls_logits[0].scalar_type();
  const Options options{location_offset, score_threshold, topk, nms_threshold, max_detections};
  return dtype == at::kDouble ? run<double>(cls_logits, box_ltrb, obj_logits, strides, options)
                              : run<float>(cls_logits, box_ltrb, obj_logits, strides, options);
}

}  // namespace
}  // namespace decode
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, CPU, m) { m.impl("decode_detections", fa::decode::decode_op); }
