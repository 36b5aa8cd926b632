// quality_statistics, quality_loss_forward and quality_loss_backward on CUDA: checks, allocation,
// launches.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "core/quality_arguments.h"
#include "cuda/quality_launch.h"

namespace fa {
namespace quality {
namespace {

using Tensors = std::vector<at::Tensor>;
constexpr int64_t kStatistics = sizeof(CudaStatistics) / sizeof(double);

// The kernels' arguments, and what their pointers point into.
template <typename S>
struct Problem {
  explicit Problem(const Inputs& in) {
    check(in);
    device = in.mu.device();
    work = {};
    work.images = in.cls_logits[0].size(0);
    work.classes = in.cls_logits[0].size(1);
    work.levels = in.cls_logits.size();
    work.options = in.options;
    TORCH_CHECK(work.levels <= kMaxLevels, "at most ", kMaxLevels, " levels run on CUDA, got ",
                work.levels);
    TORCH_CHECK(work.images <= kMaxImages, "at most ", kMaxImages, " images run on CUDA, got ",
                work.images);
    int64_t locations = 0;
    for (int32_t l = 0; l < work.levels; ++l) {
      const int64_t height = in.cls_logits[l].size(2), width = in.cls_logits[l].size(3);
      work.level[l] = {static_cast<int32_t>(height),
                       static_cast<int32_t>(width),
                       static_cast<int32_t>(locations),
                       S(in.strides[l]),
                       data(in.cls_logits[l]),
                       data(in.box_ltrb[l]),
                       data(in.obj_logits[l]),
                       nullptr,
                       nullptr,
                       nullptr};
      locations += height * width;
    }
    TORCH_CHECK(locations < (int64_t{1} << 30), "too many locations: ", locations);
    work.locations = static_cast<int32_t>(locations);
    for (int32_t n = 0; n < work.images; ++n) {
      work.first_box[n + 1] = work.first_box[n] + static_cast<int32_t>(in.gt_boxes[n].size(0));
    }
    work.boxes = work.first_box[work.images];
    Tensors classes;
    for (const at::Tensor& x : in.gt_classes) classes.push_back(x.to(at::kLong));
    Tensors boxes;
    for (const at::Tensor& x : in.gt_boxes) boxes.push_back(x.to(in.mu.scalar_type()));
    if (work.images > 0) {
      work.corners = data(at::cat(boxes));
      kept.push_back(at::cat(classes));
      work.box_classes = kept.back().const_data_ptr<int64_t>();
    }
    work.mu = data(in.mu);
    work.sigma = data(in.sigma);
    work.level_step = in.mu.dim() == 3 ? 2 * work.classes : 0;
  }

  void set_state(const at::Tensor& statistics, const at::Tensor& max_iou,
                 const at::Tensor& divisors) {
    check_state(statistics, max_iou, divisors, work.boxes, work.images, work.locations, kStatistics,
                device);
    kept.push_back(divisors.contiguous());
    work.divisors = kept.back().const_data_ptr<double>();
    // Only read from here on.
    work.statistics =
        reinterpret_cast<CudaStatistics*>(const_cast<double*>(statistics.const_data_ptr<double>()));
    work.max_iou = const_cast<S*>(max_iou.const_data_ptr<S>());
  }

  const S* data(const at::Tensor& x) {
    kept.push_back(x.contiguous());
    return kept.back().const_data_ptr<S>();
  }

  CudaWork<S> work;
  Tensors kept;
  at::Device device = at::kCUDA;
};

template <typename S>
std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics(const Inputs& in) {
  Problem<S> problem(in);
  CudaWork<S>& work = problem.work;
  const auto of_maps = in.cls_logits[0].options();
  at::Tensor out = at::zeros({work.boxes, kStatistics}, of_maps.dtype(at::kDouble));
  at::Tensor max_iou = at::zeros({work.images, work.locations}, of_maps);
  work.statistics = reinterpret_cast<CudaStatistics*>(out.mutable_data_ptr<double>());
  work.max_iou = max_iou.mutable_data_ptr<S>();
  C10_CUDA_CHECK(launch_statistics(work, at::cuda::getCurrentCUDAStream()));
  return {out, max_iou, out.select(1, 2).sum()};
}

template <typename S>
at::Tensor losses(const Inputs& in, const at::Tensor& statistics, const at::Tensor& max_iou,
                  const at::Tensor& divisors) {
  Problem<S> problem(in);
  problem.set_state(statistics, max_iou, divisors);
  CudaWork<S>& work = problem.work;
  const auto of_maps = in.cls_logits[0].options();
  at::Tensor partial =
      at::empty({work.images, blocks_per_image(work.locations)}, of_maps.dtype(at::kDouble));
  at::Tensor out = at::empty({3}, of_maps);
  work.partial = partial.mutable_data_ptr<double>();
  work.losses = out.mutable_data_ptr<S>();
  C10_CUDA_CHECK(launch_losses(work, at::cuda::getCurrentCUDAStream()));
  return out;
}

template <typename S>
void gradients(const at::Tensor& grad_losses, const Inputs& in, const at::Tensor& statistics,
               const at::Tensor& max_iou, const at::Tensor& divisors, const Outputs& outputs) {
  Problem<S> problem(in);
  problem.set_state(statistics, max_iou, divisors);
  CudaWork<S>& work = problem.work;
  check_outputs(in, grad_losses, outputs);
  TORCH_CHECK(!outputs.hold_negative, "hold_negative is of the CPU's operator");
  work.grad_losses = problem.data(grad_losses.to(in.mu.scalar_type()));
  for (int32_t l = 0; l < work.levels; ++l) {
    work.level[l].grad_cls = outputs.cls[l].template mutable_data_ptr<S>();
    work.level[l].grad_box = outputs.box[l].template mutable_data_ptr<S>();
    work.level[l].grad_obj = outputs.obj[l].template mutable_data_ptr<S>();
  }
  const auto in_double = in.cls_logits[0].options().dtype(at::kDouble);
  at::Tensor factors = at::empty({work.boxes, 2}, in_double);
  at::Tensor sums = at::empty({work.boxes, work.levels, 4}, in_double);
  work.factors = factors.mutable_data_ptr<double>();
  work.box_sums = sums.mutable_data_ptr<double>();
  work.grad_mu = outputs.mu.mutable_data_ptr<S>();
  work.grad_sigma = outputs.sigma.mutable_data_ptr<S>();
  C10_CUDA_CHECK(launch_gradients(work, at::cuda::getCurrentCUDAStream()));
}

bool is_double(at::TensorList maps) { return maps[0].scalar_type() == at::kDouble; }

std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics_op(
    at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
    at::TensorList gt_boxes, at::TensorList gt_classes, const at::Tensor& mu,
    const at::Tensor& sigma, at::ArrayRef<double> strides, double location_offset,
    bool feature_filter, bool quality_prior, double reg_weight, std::string type) {
  const c10::cuda::CUDAGuard guard(mu.device());
  const Inputs in{
      cls_logits,
      box_ltrb,
      obj_logits,
      gt_boxes,
      gt_classes,
      mu,
      sigma,
      strides,
      {feature_filter, quality_prior, iou_type(type), reg_weight, location_offset, 0, 0}};
  return is_double(cls_logits) ? statistics<double>(in) : statistics<float>(in);
}

std::tuple<at::Tensor, Tensors, Tensors> forward_op(
    at::TensorList cls_logits, at::TensorList box_ltrb, at::TensorList obj_logits,
    at::TensorList gt_boxes, at::TensorList gt_classes, const at::Tensor& mu,
    const at::Tensor& sigma, const at::Tensor& statistics, const at::Tensor& max_iou,
    const at::Tensor& divisors, at::ArrayRef<double> strides, double location_offset,
    bool feature_filter, bool quality_prior, double reg_weight, std::string type,
    double focal_alpha, double focal_gamma, bool with_gradient) {
  const c10::cuda::CUDAGuard guard(mu.device());
  TORCH_CHECK(!with_gradient, "with_gradient is of the CPU's operator");
  const Inputs in{cls_logits,
                  box_ltrb,
                  obj_logits,
                  gt_boxes,
                  gt_classes,
                  mu,
                  sigma,
                  strides,
                  {feature_filter, quality_prior, iou_type(type), reg_weight, location_offset,
                   focal_alpha, focal_gamma}};
  return {is_double(cls_logits) ? losses<double>(in, statistics, max_iou, divisors)
                                : losses<float>(in, statistics, max_iou, divisors),
          Tensors(), Tensors()};
}

void backward_op(const at::Tensor& grad_losses, at::TensorList cls_logits, at::TensorList box_ltrb,
                 at::TensorList obj_logits, at::TensorList gt_boxes, at::TensorList gt_classes,
                 const at::Tensor& mu, const at::Tensor& sigma, const at::Tensor& statistics,
                 const at::Tensor& max_iou, const at::Tensor& divisors,
                 at::ArrayRef<double> strides, double location_offset, bool feature_filter,
                 bool quality_prior, double reg_weight, std::string type, double focal_alpha,
                 double focal_gamma, at::TensorList grad_cls, at::TensorList grad_box,
                 at::TensorList grad_obj, const at::Tensor& grad_mu, const at::Tensor& grad_sigma,
                 bool hold_negative) {
  const c10::cuda::CUDAGuard guard(mu.device());
  const Inputs in{cls_logits,
                  box_ltrb,
                  obj_logits,
                  gt_boxes,
                  gt_classes,
                  mu,
                  sigma,
                  strides,
                  {feature_filter, quality_prior, iou_type(type), reg_weight, location_offset,
                   focal_alpha, focal_gamma}};
  const Outputs outputs{grad_cls, grad_box, grad_obj, grad_mu, grad_sigma, hold_negative};
  return is_double(cls_logits)
             ? gradients<double>(grad_losses, in, statistics, max_iou, divisors, outputs)
             : gradients<float>(grad_losses, in, statistics, max_iou, divisors, outputs);
}

}  // namespace
}  // namespace quality
}  // namespace fa

TORCH_LIBRARY_IMPL(fa_detectron, CUDA, m) {
  m.impl("quality_statistics", fa::quality::statistics_op);
  m.impl("quality_loss_forward", fa::quality::forward_op);
  m.impl("quality_loss_backward", fa::quality::backward_op);
}
