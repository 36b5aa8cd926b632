// quality_statistics, quality_loss_forward and quality_loss_backward on CUDA: checks, allocation,
// launches.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "core/quality_operator.h"
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

  void set_state(const State& state) {
    check_state(state, work.boxes, work.images, work.locations, kStatistics, device);
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
at::Tensor losses(const Inputs& in, const State& state) {
  Problem<S> problem(in);
  problem.set_state(state);
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
void gradients(const Inputs& in, const State& state, const at::Tensor& grad_losses,
               const Outputs& outputs) {
  Problem<S> problem(in);
  problem.set_state(state);
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

std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics_op(const Inputs& in) {
  const c10::cuda::CUDAGuard guard(in.mu.device());
  return is_double(in) ? statistics<double>(in) : statistics<float>(in);
}

std::tuple<at::Tensor, Tensors, Tensors> forward_op(const Inputs& in, const State& state,
                                                    bool with_gradient) {
  const c10::cuda::CUDAGuard guard(in.mu.device());
  TORCH_CHECK(!with_gradient, "with_gradient is of the CPU's operator");
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
