// decode_detections on the CPU; schema in registry.cpp.
//
// The scores are not computed for all (location, class) pairs: a pair can only matter where its
// class logit reaches a bound that follows from the location's objectness and from the best
// candidates found so far. The dense pass compares logits, and reads them once.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "math/decode.h"

namespace fa {
namespace decode {
namespace {

template <typename S>
struct Level {
  int64_t height, width;
  S stride;
  const S* cls;   // (N, K, H, W) logits
  const S* box;   // (N, 4, H, W) pixels
  const S* obj;   // (N, 1, H, W) logits
  int64_t limit;  // candidates that it may pass on
};

template <typename S>
struct Candidate {
  S score;
  int64_t index;  // location * K + class
};

template <typename S>
bool better(const Candidate<S>& a, const Candidate<S>& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

struct Options {
  double location_offset, score_threshold;
  int64_t topk;
  double nms_threshold;
  int64_t max_detections;
};

// The best candidates of a part of one level's locations, in any order.
template <typename S>
class Selection {
 public:
  // bound: the score that the level's limit-th best candidate is known to have, shared by its
  // parts.
  Selection(const Level<S>& level, int64_t image, int64_t classes, S threshold,
            std::atomic<S>* bound)
      : level_(level), classes_(classes), threshold_(threshold), bound_(bound) {
    const int64_t area = level.height * level.width;
    cls_ = level.cls + image * classes * area;
    obj_ = level.obj + image * area;
  }

  void add(int64_t begin, int64_t end) {
    constexpr int64_t kPart = 1024;
    for (int64_t part = begin; part < end; part += kPart) {
      add_part(part, std::min(end, part + kPart));
    }
  }

  std::vector<Candidate<S>>& finish() {
    trim();
    return found_;
  }

 private:
  void add_part(int64_t begin, int64_t end) {
    const int64_t count = end - begin, area = level_.height * level_.width;
    objectness_.resize(count);
    lowest_.resize(count);
    for (int64_t i = 0; i < count; ++i) objectness_[i] = exact_sigmoid(obj_[begin + i]);
    find_lowest();
    constexpr int64_t kBlock = 64;
    for (int64_t c = 0; c < classes_; ++c) {
      const S* logits = cls_ + c * area + begin;
      if (used_ != bound_->load(std::memory_order_relaxed)) find_lowest();
      for (int64_t i = 0; i < count; i += kBlock) {
        const int64_t stop = std::min(count, i + kBlock);
        int32_t reached = 0;
        for (int64_t j = i; j < stop; ++j) reached += logits[j] >= lowest_[j];
        if (reached == 0) continue;
        for (int64_t j = i; j < stop; ++j) {
          if (logits[j] >= lowest_[j]) add_one(begin + j, c, logits[j], objectness_[j]);
        }
      }
    }
  }

  void add_one(int64_t location, int64_t c, S logit, S objectness) {
    const S score = exact_sigmoid(logit) * objectness;
    if (!(score > threshold_) || score < used_) return;
    found_.push_back({score, location * classes_ + c});
    if (static_cast<int64_t>(found_.size()) >= 4 * level_.limit + 64) trim();
  }

  // Keeps the best `limit`, and raises the bound to the worst of them.
  void trim() {
    if (static_cast<int64_t>(found_.size()) <= level_.limit) return;
    const auto last = found_.begin() + (level_.limit - 1);
    std::nth_element(found_.begin(), last, found_.end(), better<S>);
    const S worst = last->score;
    found_.resize(level_.limit);
    S known = bound_->load();
    while (known < worst && !bound_->compare_exchange_weak(known, worst)) {
    }
  }

  void find_lowest() {
    used_ = bound_->load(std::memory_order_relaxed);
    const double score = std::max(used_, threshold_);
    for (size_t i = 0; i < lowest_.size(); ++i) lowest_[i] = S(lowest_logit(score, objectness_[i]));
  }

  const Level<S>& level_;
  const int64_t classes_;
  const S threshold_;
  std::atomic<S>* bound_;
  S used_ = 0;  // the bound behind lowest_
  const S* cls_;
  const S* obj_;
  std::vector<S> objectness_, lowest_;  // of the locations of one part
  std::vector<Candidate<S>> found_;
};

template <typename S>
struct Detection {
  S score;
  int64_t cls;
  Corners<S> box;
};

// The candidates of one level's parts, best first, as detections.
template <typename S>
void append_level(const Level<S>& level, int64_t image, int64_t classes, S offset,
                  std::vector<Candidate<S>>& candidates, std::vector<Detection<S>>* detections) {
  std::sort(candidates.begin(), candidates.end(), better<S>);
  if (static_cast<int64_t>(candidates.size()) > level.limit) candidates.resize(level.limit);
  const int64_t area = level.height * level.width;
  const S* box = level.box + image * 4 * area;
  for (const Candidate<S>& candidate : candidates) {
    const int64_t at = candidate.index / classes;
    const S x = (S(at % level.width) + offset) * level.stride;
    const S y = (S(at / level.width) + offset) * level.stride;
    detections->push_back(
        {candidate.score,
         candidate.index % classes,
         {x - box[at], y - box[area + at], x + box[2 * area + at], y + box[3 * area + at]}});
  }
}

// Greedy class-wise NMS in falling score, until max_detections are kept; their positions.
template <typename S>
std::vector<int64_t> keep(const std::vector<Detection<S>>& detections, int64_t classes,
                          const Options& options) {
  std::vector<int64_t> kept;
  std::vector<std::vector<int64_t>> of_class(classes);
  for (size_t i = 0; i < detections.size(); ++i) {
    if (static_cast<int64_t>(kept.size()) == options.max_detections) break;
    std::vector<int64_t>& same = of_class[detections[i].cls];
    const bool suppressed = std::any_of(same.begin(), same.end(), [&](int64_t other) {
      return suppresses(detections[other].box, detections[i].box, options.nms_threshold);
    });
    if (suppressed) continue;
    same.push_back(static_cast<int64_t>(i));
    kept.push_back(static_cast<int64_t>(i));
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
  const S threshold = S(options.score_threshold), offset = S(options.location_offset);
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
      std::vector<Detection<S>> detections;
      for (size_t l = 0; l < levels.size(); ++l) {
        std::vector<Candidate<S>> candidates;
        for (size_t i = 0; i < tasks.size(); ++i) {
          if (tasks[i].image != n || tasks[i].level != static_cast<int64_t>(l)) continue;
          candidates.insert(candidates.end(), found[i].begin(), found[i].end());
        }
        append_level(levels[l], n, classes, offset, candidates, &detections);
      }
      std::stable_sort(
          detections.begin(), detections.end(),
          [](const Detection<S>& a, const Detection<S>& b) { return a.score > b.score; });
      const std::vector<int64_t> kept = keep(detections, classes, options);
      to_count[n] = static_cast<int64_t>(kept.size());
      for (size_t i = 0; i < kept.size(); ++i) {
        const Detection<S>& detection = detections[kept[i]];
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
  const size_t levels = cls_logits.size();
  TORCH_CHECK(levels > 0 && box_ltrb.size() == levels && obj_logits.size() == levels &&
                  strides.size() == levels,
              "cls_logits, box_ltrb, obj_logits and strides need one entry a level, got ", levels,
              ", ", box_ltrb.size(), ", ", obj_logits.size(), " and ", strides.size());
  TORCH_CHECK(topk >= 0 && max_detections >= 0,
              "topk and max_detections must not be negative, got ", topk, " and ", max_detections);
  const auto dtype = cls_logits[0].scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble,
              "the maps must be float32 or float64, got ", dtype);
  for (size_t l = 0; l < levels; ++l) {
    TORCH_CHECK(cls_logits[l].dim() == 4, "cls_logits[", l, "] must be (N, K, H, W), got ",
                cls_logits[l].sizes());
    const auto fits = [&](const at::Tensor& map, int64_t channels, const char* name) {
      const int64_t n = cls_logits[0].size(0), h = cls_logits[l].size(2), w = cls_logits[l].size(3);
      TORCH_CHECK(map.sizes() == at::IntArrayRef({n, channels, h, w}) && map.scalar_type() == dtype,
                  name, "[", l, "] must be (", n, ", ", channels, ", ", h, ", ", w, ") ", dtype,
                  ", got ", map.sizes(), " ", map.scalar_type());
    };
    fits(cls_logits[l], cls_logits[0].size(1), "cls_logits");
    fits(box_ltrb[l], 4, "box_ltrb");
    fits(obj_logits[l], 1, "obj_logits");
  }
  const Options options{location_offset, score_threshold, topk, nms_threshold, max_detections};
  return dtype == at::kDouble ? run<double>(cls_logits, box_ltrb, obj_logits, strides, options)
                              : run<float>(cls_logits, box_ltrb, obj_logits, strides, options);
}

}  // namespace
}  // namespace decode
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, CPU, m) { m.impl("decode_detections", fa::decode::decode_op); }
