// quality_statistics, quality_loss_forward and quality_loss_backward on the CPU.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "quality_loss/cpu/problem.h"
#include "quality_loss/operator.h"

namespace fa {
namespace quality {
namespace {

using Tensors = std::vector<at::Tensor>;

const BoxStatistics* as_statistics(const at::Tensor& statistics) {
  return reinterpret_cast<const BoxStatistics*>(statistics.const_data_ptr<double>());
}

// Adds up what the claims of each box found, in the order of the claims.
template <typename S>
void combine(const Problem<S>& problem, BoxStatistics* boxes) {
  const Work<S>& work = problem.work;
  for (int64_t c = 0; c < problem.num_claims(); ++c) {
    const BoxStatistics& part = work.claim_statistics[c];
    BoxStatistics& box = boxes[work.claims[c].box];
    const bool first = box.count == 0;
    box.bag_weight += part.bag_weight;
    box.bag_confidence += part.bag_confidence;
    box.gaussian += part.gaussian;
    box.count += part.count;
    box.lowest_joint = first ? part.lowest_joint : smaller(box.lowest_joint, part.lowest_joint);
    box.highest_joint = first ? part.highest_joint : larger(box.highest_joint, part.highest_joint);
    box.lowest_iou = first ? part.lowest_iou : smaller(box.lowest_iou, part.lowest_iou);
    box.highest_iou = first ? part.highest_iou : larger(box.highest_iou, part.highest_iou);
  }
}

template <typename S>
std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics(const Inputs& inputs) {
  Problem<S> problem(inputs);
  const auto of_maps = inputs.cls_logits[0].options(), in_double = of_maps.dtype(at::kDouble);
  at::Tensor out = at::zeros({problem.num_boxes(), kStatistics}, in_double);
  at::Tensor max_iou = at::zeros({problem.work.images, problem.work.locations}, of_maps);
  at::Tensor num_background = at::zeros({}, in_double);
  std::vector<BoxStatistics> parts(problem.num_claims());
  auto* boxes = reinterpret_cast<BoxStatistics*>(out.mutable_data_ptr<double>());
  problem.work.max_iou = max_iou.mutable_data_ptr<S>();
  problem.work.claim_statistics = parts.data();
  problem.for_each_chunk([&](int64_t, const Chunk& chunk, S* scratch) {
    steps<S>().statistics(problem.work, chunk, scratch);
  });
  combine(problem, boxes);
  if (inputs.options.quality_prior) {
    problem.work.statistics = boxes;
    problem.for_each_chunk([&](int64_t, const Chunk& chunk, S* scratch) {
      steps<S>().prior_roots(problem.work, chunk, scratch);
    });
    for (int64_t c = 0; c < problem.num_claims(); ++c) {
      boxes[problem.work.claims[c].box].prior_root += parts[c].prior_root;
    }
  }
  double& total = *num_background.mutable_data_ptr<double>();
  for (int64_t g = 0; g < problem.num_boxes(); ++g) total += boxes[g].gaussian;
  return {out, max_iou, num_background};
}

// The prior term of one image and its derivative by the image's sum over inside pairs.
template <typename S>
std::pair<double, double> prior_term(const Work<S>& work, int64_t image) {
  const int64_t begin = work.image_boxes[image], end = work.image_boxes[image + 1];
  double count = 0, sum = 0;
  for (int64_t g = begin; g < end; ++g) {
    count += work.statistics[g].count;
    sum += work.options.quality_prior ? work.statistics[g].prior_root : work.statistics[g].gaussian;
  }
  if (count == 0) return {0, 0};
  const bool clamped = !work.options.quality_prior && sum < 1e-12;
  const double divisor = work.options.quality_prior ? sum + 1e-6 : clamp_min(sum, 1e-12);
  const double value = double(end - begin) / divisor;
  return {value, clamped ? 0 : -value / divisor};
}

// A contiguous tensor of its shape to the end of the list.
template <typename S>
S* add_like(const at::Tensor& like, Tensors* list) {
  list->push_back(at::empty_like(like, at::MemoryFormat::Contiguous));
  return list->back().mutable_data_ptr<S>();
}

double bag_of(const BoxStatistics& box) {
  return box.bag_confidence / clamp_min(box.bag_weight, 1e-12);
}

template <typename S>
void set_state(Problem<S>* problem, const State& state, const at::Tensor& mu) {
  Work<S>& work = problem->work;
  check_state(state, problem->num_boxes(), work.images, work.locations, kStatistics, mu);
  work.statistics = as_statistics(state.statistics);
  work.max_iou = const_cast<S*>(state.max_iou.const_data_ptr<S>());  // only read from here on
}

// The negative loss before its factor; also its gradients where the levels have room for them.
template <typename S>
double negative(const Problem<S>& problem, bool with_gradient) {
  const auto step = with_gradient ? steps<S>().negative_with_gradient : steps<S>().negative;
  std::vector<double> parts(problem.num_chunks());
  problem.for_each_chunk([&](int64_t i, const Chunk& chunk, S* scratch) {
    parts[i] = step(problem.work, chunk, scratch);
  });
  double total = 0;
  for (const double part : parts) total += part;
  return total;
}

template <typename S>
std::tuple<at::Tensor, Tensors, Tensors> losses(const Inputs& inputs, const State& state,
                                                bool with_gradient) {
  Problem<S> problem(inputs);
  Work<S>& work = problem.work;
  set_state(&problem, state, inputs.mu);
  const double alpha = inputs.options.focal_alpha;
  const auto divide = state.divisors.contiguous();
  const double* by = divide.const_data_ptr<double>();
  work.negative_factor = (1 - alpha) / by[1];
  Tensors cls, obj;
  if (with_gradient) {
    for (size_t l = 0; l < inputs.cls_logits.size(); ++l) {
      problem.level(l).grad_cls = add_like<S>(inputs.cls_logits[l], &cls);
      problem.level(l).grad_obj = add_like<S>(inputs.obj_logits[l], &obj);
    }
  }
  double positive = 0, prior = 0;
  for (int64_t g = 0; g < problem.num_boxes(); ++g)
    positive += bag_loss(bag_of(work.statistics[g]));
  for (int64_t n = 0; n < work.images; ++n) prior += prior_term(work, n).first;
  at::Tensor out = at::empty({3}, inputs.cls_logits[0].options());
  S* to = out.mutable_data_ptr<S>();
  to[0] = S(alpha * positive / by[0]);
  to[1] = S((1 - alpha) * negative(problem, with_gradient) / by[1]);
  to[2] = S((1 - alpha) * prior / double(larger(work.images, int64_t{1})));  // no image: 0
  return {out, cls, obj};
}

// From the sums of each claim to the gradients of mu and sigma, in the order of the claims.
template <typename S>
void gaussian_gradients(const Problem<S>& problem, const Outputs& outputs) {
  const Work<S>& work = problem.work;
  at::Tensor mu = at::zeros(outputs.mu.sizes(), outputs.mu.options().dtype(at::kDouble));
  at::Tensor sigma = at::zeros_like(mu);
  double *to_mu = mu.mutable_data_ptr<double>(), *to_sigma = sigma.mutable_data_ptr<double>();
  for (int64_t c = 0; c < problem.num_claims(); ++c) {
    const Box<S>& box = work.boxes[work.claims[c].box];
    const int64_t level = problem.chunk(work.claims[c].chunk).level;
    const int64_t at = level * work.level_step + 2 * box.cls;
    const Gaussian<S> gaussian = make_gaussian(
        box.x1, box.y1, box.x2, box.y2, work.levels[level].stride, work.mu + at, work.sigma + at);
    const ClaimGradient& part = work.claim_gradients[c];
    to_mu[at] += part.dx * gaussian.by_mu_x;
    to_mu[at + 1] += part.dy * gaussian.by_mu_y;
    to_sigma[at] += part.dx2 * gaussian.by_sigma_x;
    to_sigma[at + 1] += part.dy2 * gaussian.by_sigma_y;
  }
  outputs.mu.copy_(mu);
  outputs.sigma.copy_(sigma);
}

template <typename S>
void gradients(const Inputs& inputs, const State& state, const at::Tensor& grad_losses,
               const Outputs& outputs) {
  Problem<S> problem(inputs);
  Work<S>& work = problem.work;
  set_state(&problem, state, inputs.mu);
  check_outputs(inputs, grad_losses, outputs);
  for (size_t l = 0; l < inputs.cls_logits.size(); ++l) {
    problem.level(l).grad_cls = outputs.cls[l].template mutable_data_ptr<S>();
    problem.level(l).grad_obj = outputs.obj[l].template mutable_data_ptr<S>();
    problem.level(l).grad_box = outputs.box[l].template mutable_data_ptr<S>();
  }
  const auto upstream = grad_losses.to(at::kDouble).contiguous();
  const auto divide = state.divisors.contiguous();
  const double *grad = upstream.const_data_ptr<double>(), *by = divide.const_data_ptr<double>();
  const double alpha = inputs.options.focal_alpha;
  work.negative_factor = (1 - alpha) / by[1];
  work.negative_scale = grad[1];
  if (!outputs.hold_negative) negative(problem, true);
  std::vector<BoxFactors> factors;
  for (int64_t n = 0; n < work.images; ++n) {
    const double prior = grad[2] * (1 - alpha) / double(work.images) * prior_term(work, n).second;
    for (int64_t g = work.image_boxes[n]; g < work.image_boxes[n + 1]; ++g) {
      const double slope = bag_slope(bag_of(work.statistics[g]));
      factors.push_back({grad[0] * alpha / by[0] * slope, prior});
    }
  }
  std::vector<ClaimGradient> parts(problem.num_claims());
  work.factors = factors.data();
  work.claim_gradients = parts.data();
  problem.for_each_chunk(
      [&](int64_t, const Chunk& chunk, S* scratch) { steps<S>().gradients(work, chunk, scratch); });
  gaussian_gradients(problem, outputs);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> statistics_op(const Inputs& inputs) {
  return is_double(inputs) ? statistics<double>(inputs) : statistics<float>(inputs);
}

std::tuple<at::Tensor, Tensors, Tensors> forward_op(const Inputs& inputs, const State& state,
                                                    bool with_gradient) {
  return is_double(inputs) ? losses<double>(inputs, state, with_gradient)
                           : losses<float>(inputs, state, with_gradient);
}

void backward_op(const Inputs& inputs, const State& state, const at::Tensor& grad_losses,
                 at::TensorList grad_cls, at::TensorList grad_box, at::TensorList grad_obj,
                 const at::Tensor& grad_mu, const at::Tensor& grad_sigma, bool hold_negative) {
  const Outputs outputs{grad_cls, grad_box, grad_obj, grad_mu, grad_sigma, hold_negative};
  return is_double(inputs) ? gradients<double>(inputs, state, grad_losses, outputs)
                           : gradients<float>(inputs, state, grad_losses, outputs);
}

}  // namespace

TORCH_LIBRARY_IMPL(fa_detectron, CPU, m) {
  m.impl("quality_statistics", Operator<statistics_op>::call);
  m.impl("quality_loss_forward", Operator<forward_op>::call);
  m.impl("quality_loss_backward", Operator<backward_op>::call);
}

}  // namespace quality
}  // namespace fa
