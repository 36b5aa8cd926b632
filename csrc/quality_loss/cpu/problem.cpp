#include "quality_loss/cpu/problem.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "common/cpu_capability.h"

namespace fa {
namespace quality {

namespace portable {
extern const Steps<float> kFloat;
extern const Steps<double> kDouble;
}  // namespace portable
#if defined(__x86_64__)
namespace avx2 {
extern const Steps<float> kFloat;
extern const Steps<double> kDouble;
}  // namespace avx2
namespace avx512 {
extern const Steps<float> kFloat;
extern const Steps<double> kDouble;
}  // namespace avx512
#endif

template <>
const Steps<float>& steps<float>() {
#if defined(__x86_64__)
  const CpuCapability level = cpu_capability();
  if (level == CpuCapability::kAvx512) return avx512::kFloat;
  if (level == CpuCapability::kAvx2) return avx2::kFloat;
#endif
  return portable::kFloat;
}

template <>
const Steps<double>& steps<double>() {
#if defined(__x86_64__)
  const CpuCapability level = cpu_capability();
  if (level == CpuCapability::kAvx512) return avx512::kDouble;
  if (level == CpuCapability::kAvx2) return avx2::kDouble;
#endif
  return portable::kDouble;
}

namespace {

// Cells [first, second) of one axis with low < coordinate < high, by the comparison that the
// definition of "inside" makes on the rounded coordinates.
template <typename S>
std::pair<int64_t, int64_t> cells_between(S low, S high, int64_t count, S stride, S offset) {
  const auto coordinate = [&](int64_t cell) { return (S(cell) + offset) * stride; };
  const auto guess = [&](S at) {
    const double cell = std::floor(double(at) / stride - offset);
    return cell > 0 ? static_cast<int64_t>(std::min(cell, double(count))) : int64_t{0};  // NaN: 0
  };
  int64_t begin = guess(low), end = guess(high);
  while (begin > 0 && coordinate(begin - 1) > low) --begin;
  while (begin < count && !(coordinate(begin) > low)) ++begin;
  while (end > 0 && !(coordinate(end - 1) < high)) --end;
  while (end < count && coordinate(end) < high) ++end;
  return {begin, end};
}

}  // namespace

template <typename S>
Problem<S>::Problem(const Inputs& inputs) {
  check(inputs);
  work = {};
  work.images = inputs.cls_logits[0].size(0);
  work.classes = inputs.cls_logits[0].size(1);
  work.options = inputs.options;
  add_levels(inputs);
  add_boxes(inputs);
  cut_chunks();
  find_claims();
  const auto mu = inputs.mu.contiguous(), sigma = inputs.sigma.contiguous();
  kept_.push_back(mu);
  kept_.push_back(sigma);
  work.mu = mu.const_data_ptr<S>();
  work.sigma = sigma.const_data_ptr<S>();
  work.level_step = mu.dim() == 3 ? 2 * work.classes : 0;
  work.levels = levels_.data();
  work.boxes = boxes_.data();
  work.image_boxes = image_boxes_.data();
  work.chunks = chunks_.data();
  work.claims = claims_.data();
  work.by_class = by_class_.data();
}

template <typename S>
void Problem<S>::add_levels(const Inputs& inputs) {
  const auto data = [&](const at::Tensor& map) {
    kept_.push_back(map.contiguous());
    return kept_.back().template const_data_ptr<S>();
  };
  for (size_t i = 0; i < inputs.cls_logits.size(); ++i) {
    Level<S> level = {};
    level.height = inputs.cls_logits[i].size(2);
    level.width = inputs.cls_logits[i].size(3);
    level.first = work.locations;
    level.stride = S(inputs.strides[i]);
    level.cls = data(inputs.cls_logits[i]);
    level.box = data(inputs.box_ltrb[i]);
    level.obj = data(inputs.obj_logits[i]);
    levels_.push_back(level);
    work.locations += level.height * level.width;
  }
}

template <typename S>
void Problem<S>::add_boxes(const Inputs& inputs) {
  image_boxes_.push_back(0);
  for (int64_t n = 0; n < work.images; ++n) {
    const auto boxes = inputs.gt_boxes[n].to(inputs.mu.scalar_type()).contiguous();
    const auto classes = inputs.gt_classes[n].to(at::kLong).contiguous();
    const S* corner = boxes.template const_data_ptr<S>();
    const int64_t* cls = classes.template const_data_ptr<int64_t>();
    for (int64_t g = 0; g < classes.size(0); ++g, corner += 4) {
      TORCH_CHECK_VALUE(cls[g] >= 0 && cls[g] < work.classes, "gt_classes[", n, "][", g,
                        "] = ", cls[g], " is not in [0, ", work.classes, ")");
      boxes_.push_back({n, cls[g], corner[0], corner[1], corner[2], corner[3]});
    }
    image_boxes_.push_back(num_boxes());
  }
}

template <typename S>
void Problem<S>::cut_chunks() {
  // A class's row of a chunk is four pages: with fewer, looking up the pages of 80 classes costs as
  // much as the arithmetic; with more, there would be too few chunks for the threads.
  constexpr int64_t kChunkCells = 4096;
  for (const Level<S>& level : levels_) {
    const int64_t parts = (level.height * level.width + kChunkCells - 1) / kChunkCells;
    chunk_rows_.push_back(parts > 0 ? (level.height + parts - 1) / parts : 1);  // about equal ones
  }
  for (int64_t n = 0; n < work.images; ++n) {
    for (size_t l = 0; l < levels_.size(); ++l) {
      first_chunk_.push_back(num_chunks());
      const int64_t height = levels_[l].width > 0 ? levels_[l].height : 0;
      for (int64_t row = 0; row < height; row += chunk_rows_[l]) {
        const int64_t last = std::min(height, row + chunk_rows_[l]);
        chunks_.push_back({n, static_cast<int64_t>(l), row, last, 0, 0});
        largest_chunk_ = std::max(largest_chunk_, (last - row) * levels_[l].width);
      }
    }
  }
}

template <typename S>
void Problem<S>::find_claims() {
  const S offset = S(work.options.location_offset);
  std::vector<Claim> found;
  for (int64_t g = 0; g < num_boxes(); ++g) {
    const Box<S>& box = boxes_[g];
    for (size_t l = 0; l < levels_.size(); ++l) {
      const Level<S>& level = levels_[l];
      const auto [x0, x1] = cells_between(box.x1, box.x2, level.width, level.stride, offset);
      const auto [y0, y1] = cells_between(box.y1, box.y2, level.height, level.stride, offset);
      if (x0 >= x1) continue;
      const int64_t rows = chunk_rows_[l];
      for (int64_t row = y0; row < y1; row = (row / rows + 1) * rows) {
        const int64_t chunk = first_chunk_[box.image * levels_.size() + l] + row / rows;
        found.push_back({g, chunk, x0, x1, row, std::min(y1, (row / rows + 1) * rows)});
        ++chunks_[chunk].last_claim;  // a count, for now
      }
    }
  }
  int64_t total = 0;
  for (Chunk& chunk : chunks_) {
    const int64_t count = chunk.last_claim;
    chunk.first_claim = chunk.last_claim = total;
    total += count;
  }
  claims_.resize(found.size());
  for (const Claim& claim : found) claims_[chunks_[claim.chunk].last_claim++] = claim;
  by_class_.resize(found.size());
  for (int64_t i = 0; i < total; ++i) by_class_[i] = i;
  for (const Chunk& chunk : chunks_) {
    std::stable_sort(by_class_.begin() + chunk.first_claim, by_class_.begin() + chunk.last_claim,
                     [&](int64_t a, int64_t b) {
                       return boxes_[claims_[a].box].cls < boxes_[claims_[b].box].cls;
                     });
  }
}

template class Problem<float>;
template class Problem<double>;

}  // namespace quality
}  // namespace fa
