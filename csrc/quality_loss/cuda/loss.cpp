// quality_statistics, quality_loss_forward and quality_loss_backward on CUDA: checks, allocation,
// launches.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "common/map_of.h"
#include "quality_loss/cuda/launch.h"
#include "quality_loss/operator.h"

namespace fa {
namespace quality {
namespace {

using Tensors = std::vector<at::Tensor>;
constexpr int64_t kStatistics = sizeof(CudaStatistics) / sizeof(double);
template <typename S>
constexpr int64_t kPart = sizeof(SliceStatistics<S>) / sizeof(double);

// The kernels' arguments, and what their pointers point into.
template <typename S>
struct Problem {
  explicit Problem(const Inputs& in) {
    check(in);
    mu = in.mu;
    work = {};
    work.images = in.cls_logits[0].size(0);
    work.classes = in.cls_logits[0].size(1);
    work.levels = in.cls_logits.size();
    const QualityOptions& o = in.options;
    work.options = {o.feature_filter,     o.quality_prior, o.iou_type,   S(o.reg_weight),
                    S(o.location_offset), o.focal_alpha,   o.focal_gamma};
    TORCH_CHECK_VALUE(work.levels <= kMaxLevels, "at most ", kMaxLevels,
                      " levels run on CUDA, got ", work.levels);
    TORCH_CHECK_VALUE(work.images <= kMaxImages, "at most ", kMaxImages,
                      " images run on CUDA, got ", work.images);
    int64_t locations = 0, tiles = 0, slices = 0;
    for (int32_t l = 0; l < work.levels; ++l) {
      const int64_t height = in.cls_logits[l].size(2), width = in.cls_logits[l].size(3);
      CudaLevel<S>& level = work.level[l];
      level.height = static_cast<int32_t>(height), level.width = static_cast<int32_t>(width);
      level.first = static_cast<int32_t>(locations);
      level.first_tile = static_cast<int32_t>(tiles);
      level.first_slice = static_cast<int32_t>(slices);
      level.stride = S(in.strides[l]);
      level.cls = map_of<S>(in.cls_logits[l], &kept);
      level.box = map_of<S>(in.box_ltrb[l], &kept);
      level.obj = data(in.obj_logits[l]);
      tiles += (height * width + kTileLocations - 1) / kTileLocations;
      slices += (height * width + kSlice - 1) / kSlice;
      locations += height * width;
    }
    TORCH_CHECK_VALUE(locations < (int64_t{1} << 30), "too many locations: ", locations);
    work.locations = static_cast<int32_t>(locations);
    work.tiles = static_cast<int32_t>(tiles), work.slices = static_cast<int32_t>(slices);
    for (int32_t n = 0; n < work.images; ++n) {
      work.first_box[n + 1] = work.first_box[n] + static_cast<int32_t>(in.gt_boxes[n].size(0));
    }
    work.boxes = work.first_box[work.images];
    TORCH_CHECK_VALUE(work.boxes * slices < (int64_t{1} << 31), "too many boxes: ", work.boxes);
    Tensors classes, boxes;
    for (const at::Tensor& x : in.gt_classes) classes.push_back(x.to(at::kLong));
    for (const at::Tensor& x : in.gt_boxes) boxes.push_back(x.to(in.mu.scalar_type()));
    work.box_classes = joined<int64_t>(classes);
    work.corners = joined<S>(boxes);
    work.mu = data(in.mu);
    work.sigma = data(in.sigma);
    work.level_step = in.mu.dim() == 3 ? 2 * work.classes : 0;
  }

  void set_state(const State& state) {
    check_state(state, work.boxes, work.images, work.locations, kStatistics, mu);
    kept.push_back(state.divisors.contiguous());
    work.divisors = kept.back().const_data_ptr<double>();
    // Only read from here on.
    work.statistics = reinterpret_cast<CudaStatistics*>(
        const_cast<double*>(state.statistics.const_data_ptr<double>()));
    work.max_iou = const_cast<S*>(state.max_iou.const_data_ptr<S>());
  }

  const S* data(const at::Tensor& x) {
    kept.push_back(x.contiguous());
    return kept.back().const_data_ptr<S>();
  }

  // One after the other; not copied where they lie so already.
  template <typename T>
  const T* joined(const Tensors& parts) {
    const T *first = nullptr, *end = nullptr;
    bool follow = true;
    for (const at::Tensor& x : parts) {
      if (x.numel() == 0) continue;
      const T* const begin = x.const_data_ptr<T>();
      follow = follow && x.is_contiguous() && (end == nullptr || begin == end);
      first = first == nullptr ? begin : first;
      end = begin + x.numel();
      kept.push_back(x);
    }
    if (follow) return first;
    kept.push_back(at::cat(parts));
    return kept.back().const_data_ptr<T>();
  }

  CudaWork<S> work;
  Tensors kept;
  at::Tensor mu;
};

template <typename S>
std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics(const Inputs& in) {
  Problem<S> problem(in);
  CudaWork<S>& work = problem.work;
  const auto of_maps = in.cls_logits[0].options();
  const auto in_double = of_maps.dtype(at::kDouble);
  at::Tensor out = at::empty({work.boxes, kStatistics}, in_double);
  at::Tensor max_iou = at::empty({work.images, work.locations}, of_maps);
  at::Tensor background = at::empty({}, in_double);
  at::Tensor parts = at::empty({work.boxes, work.slices, kPart<S>}, in_double);
  work.statistics = reinterpret_cast<CudaStatistics*>(out.mutable_data_ptr<double>());
  work.max_iou = max_iou.mutable_data_ptr<S>();
  work.background = background.mutable_data_ptr<double>();
  work.parts = reinterpret_cast<SliceStatistics<S>*>(parts.mutable_data_ptr<double>());
  C10_CUDA_CHECK(launch_statistics(work, at::cuda::getCurrentCUDAStream()));
  return {out, max_iou, background};
}

template <typename S>
at::Tensor losses(const Inputs& in, const State& state) {
  Problem<S> problem(in);
  problem.set_state(state);
  CudaWork<S>& work = problem.work;
  const auto of_maps = in.cls_logits[0].options();
  at::Tensor partial = at::empty({work.images, work.tiles}, of_maps.dtype(at::kDouble));
  at::Tensor out = at::empty({3}, of_maps);
  work.partial = partial.mutable_data_ptr<double>();
  work.losses = out.mutable_data_ptr<S>();
  C10_CUDA_CHECK(launch_losses(work, at::cuda::getCurrentCUDAStream()));
  return out;
}

template <typename S>
void gradients(const Inputs& in, const State& state, const at::Tensor& grad_losses,
               const Outputs& outputs) {
  Problem<S> problem(in);
  problem.set_state(state);
  CudaWork<S>& work = problem.work;
  check_outputs(in, grad_losses, outputs);
  TORCH_CHECK_VALUE(!outputs.hold_negative, "hold_negative is of the CPU's operator");
  work.grad_losses = problem.data(grad_losses.to(in.mu.scalar_type()));
  for (int32_t l = 0; l < work.levels; ++l) {
    const at::Tensor &cls = outputs.cls[l], &box = outputs.box[l];
    work.level[l].grad_cls = map_around(cls.template mutable_data_ptr<S>(), cls);
    work.level[l].grad_box = map_around(box.template mutable_data_ptr<S>(), box);
    work.level[l].grad_obj = outputs.obj[l].template mutable_data_ptr<S>();
  }
  const auto of_maps = in.cls_logits[0].options(), in_double = of_maps.dtype(at::kDouble);
  at::Tensor slopes = at::empty({work.boxes, sizeof(BoxSlopes<S>) / sizeof(S)}, of_maps);
  at::Tensor sums = at::empty({work.boxes, work.slices, 4}, in_double);
  work.slopes = reinterpret_cast<BoxSlopes<S>*>(slopes.mutable_data_ptr<S>());
  work.slice_sums = sums.mutable_data_ptr<double>();
  work.grad_mu = outputs.mu.mutable_data_ptr<S>();
  work.grad_sigma = outputs.sigma.mutable_data_ptr<S>();
  C10_CUDA_CHECK(launch_gradients(work, at::cuda::getCurrentCUDAStream()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics_op(const Inputs& in) {
  const c10::cuda::CUDAGuard guard(in.mu.device());
  return is_double(in) ? statistics<double>(in) : statistics<float>(in);
}

std::tuple<at::Tensor, Tensors, Tensors> forward_op(const Inputs& in, const State& state,
                                                    bool with_gradient) {
  const c10::cuda::CUDAGuard guard(in.mu.device());
  TORCH_CHECK_VALUE(!with_gradient, "with_gradient is of the CPU's operator");
  return {is_double(in) ? losses<double>(in, state) : losses<float>(in, state), Tensors(),
          Tensors()};
}

void backward_op(const Inputs& in, const State& state, const at::Tensor& grad_losses,
                 at::TensorList grad_cls, at::TensorList grad_box, at::TensorList grad_obj,
                 const at::Tensor& grad_mu, const at::Tensor& grad_sigma, bool hold_negative) {
  const c10::cuda::CUDAGuard guard(in.mu.device());
  const Outputs outputs{grad_cls, grad_box, grad_obj, grad_mu, grad_sigma, hold_negative};
  return is_double(in) ? gradients<double>(in, state, grad_losses, outputs)
                       : gradients<float>(in, state, grad_losses, outputs);
}

}  // namespace

TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) {
  m.impl("quality_statistics", Operator<statistics_op>::call);
  m.impl("quality_loss_forward", Operator<forward_op>::call);
  m.impl("quality_loss_backward", Operator<backward_op>::call);
}

}  // namespace quality
}  // namespace fa
