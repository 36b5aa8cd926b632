// Kernels behind quality_loss and quality_loss_backward.
#include "cuda/quality_device.cuh"

namespace fa {
namespace quality {
namespace {

// Whether a later box of the same class holds the location, too: the last one weighs it.
template <typename S>
__device__ bool outdone(const CudaWork<S>& work, int g, int last, int cls, S x, S y) {
  for (int later = g + 1; later < last; ++later) {
    const DeviceBox<S> box = load_box(work, later);
    if (box.cls == cls && holds(box, x, y)) return true;
  }
  return false;
}

template <typename S>
__device__ __forceinline__ S weight_of(const CudaWork<S>& work, int g, S iou) {
  const CudaStatistics& box = work.statistics[g];
  return negative_weight<S, S>(iou, S(box.lowest_iou), S(box.highest_iou));
}

// One thread a location: all its classes with M = 0, then the difference that the boxes make.
template <bool kSquare, typename S>
__global__ void __launch_bounds__(kThreads, 4) negative_kernel(const CudaWork<S> work) {
  __shared__ double shared[kThreads];
  const int a = blockIdx.x * kThreads + threadIdx.x, image = blockIdx.y;
  const double gamma = work.options.focal_gamma;
  double total = 0;
  if (a < work.locations) {
    const Location<S> place = locate(work, a);
    const CudaLevel<S>& level = work.level[place.level];
    const S h = sigmoid(level.obj[image * place.area + place.cell]);
    const S* cls = level.cls + int64_t(image) * work.classes * place.area + place.cell;
    S sum = 0;
#pragma unroll 4
    for (int c = 0; c < work.classes; ++c) {
      sum += focal_term<kSquare>(sigmoid(cls[c * place.area]) * h, gamma);
    }
    total = sum;
    const S iou = work.max_iou[int64_t(image) * work.locations + a];
    const int last = work.first_box[image + 1];
    for (int g = work.first_box[image]; g < last; ++g) {
      const DeviceBox<S> box = load_box(work, g);
      if (!holds(box, place.x, place.y) || outdone(work, g, last, box.cls, place.x, place.y))
        continue;
      const S q = sigmoid(cls[box.cls * place.area]) * h;
      total += double(focal_term<kSquare>(q * weight_of(work, g, iou), gamma)) -
               double(focal_term<kSquare>(q, gamma));
    }
  }
  total = block_reduce(total, Sum(), shared);
  if (threadIdx.x == 0) work.partial[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// The prior term of one image and its derivative by the image's sum over inside pairs.
template <typename S>
__device__ void prior_term(const CudaWork<S>& work, int image, double* value, double* slope) {
  const int begin = work.first_box[image], end = work.first_box[image + 1];
  double count = 0, sum = 0;
  for (int g = begin; g < end; ++g) {
    count += work.statistics[g].count;
    sum += work.options.quality_prior ? work.statistics[g].prior_root : work.statistics[g].gaussian;
  }
  const bool clamped = !work.options.quality_prior && sum < 1e-12;
  const double divisor = work.options.quality_prior ? sum + 1e-6 : clamp_min(sum, 1e-12);
  *value = count == 0 ? 0 : double(end - begin) / divisor;
  *slope = count == 0 || clamped ? 0 : -*value / divisor;
}

__device__ __forceinline__ double bag_of(const CudaStatistics& box) {
  return box.bag_confidence / clamp_min(box.bag_weight, 1e-12);
}

// One block.
template <typename S>
__global__ void __launch_bounds__(kThreads, 4) finish_kernel(const CudaWork<S> work, int partials) {
  __shared__ double shared[kThreads];
  double positive = 0, negative = 0, prior = 0;
  for (int g = threadIdx.x; g < work.boxes; g += kThreads) {
    positive += bag_loss(bag_of(work.statistics[g]));
  }
  for (int i = threadIdx.x; i < partials; i += kThreads) negative += work.partial[i];
  for (int n = threadIdx.x; n < work.images; n += kThreads) {
    double value, slope;
    prior_term(work, n, &value, &slope);
    prior += value;
  }
  positive = block_reduce(positive, Sum(), shared);
  negative = block_reduce(negative, Sum(), shared);
  prior = block_reduce(prior, Sum(), shared);
  if (threadIdx.x != 0) return;
  const double alpha = work.options.focal_alpha;
  work.losses[0] = S(alpha * positive / work.divisors[0]);
  work.losses[1] = S((1 - alpha) * negative / work.divisors[1]);
  work.losses[2] = S((1 - alpha) * prior / max(work.images, 1));
}

// One thread a box.
template <typename S>
__global__ void __launch_bounds__(kThreads, 4) factors_kernel(const CudaWork<S> work) {
  const int g = blockIdx.x * kThreads + threadIdx.x;
  if (g >= work.boxes) return;
  const double alpha = work.options.focal_alpha;
  double value, slope;
  prior_term(work, image_of(work.first_box, work.images, g), &value, &slope);
  work.factors[2 * g] =
      work.grad_losses[0] * alpha / work.divisors[0] * bag_slope(bag_of(work.statistics[g]));
  work.factors[2 * g + 1] = work.grad_losses[2] * (1 - alpha) / work.images * slope;
}

// d losses / dP and / dN of one pair.
template <typename S>
__device__ void pair_slopes(const CudaWork<S>& work, int g, const PairQuality<S>& pair,
                            S* by_confidence, S* by_gaussian) {
  const CudaStatistics& box = work.statistics[g];
  const bool clamped = box.bag_weight < 1e-12;
  const double bag_weight = clamp_min(box.bag_weight, 1e-12);
  const S bag = S(clamped ? 0 : box.bag_confidence / bag_weight);
  const S exponential = S(work.factors[2 * g] / bag_weight) * exp(S(3) * pair.confidence);
  const S excess = pair.confidence - bag;
  *by_confidence = exponential * pair.gaussian * (S(1) + S(3) * excess);
  S prior = S(work.factors[2 * g + 1]);
  if (work.options.quality_prior) {
    const S v = prior_weight<S, S>(pair.joint, S(box.lowest_joint), S(box.highest_joint));
    const S vn = v * pair.gaussian;
    prior = vn < S(1e-12) ? S(0) : prior * S(0.5) * v / sqrt(clamp_min(vn, S(1e-12)));
  }
  *by_gaussian = exponential * excess + prior;
}

// One thread a location: it owns the location's gradients of all classes, sides and objectness.
template <bool kSquare, typename S>
__global__ void __launch_bounds__(kThreads, 4) gradients_kernel(const CudaWork<S> work) {
  const int a = blockIdx.x * kThreads + threadIdx.x, image = blockIdx.y;
  if (a >= work.locations) return;
  const double gamma = work.options.focal_gamma;
  const S factor = S(work.grad_losses[1] * (1 - work.options.focal_alpha) / work.divisors[1]);
  const Location<S> place = locate(work, a);
  const CudaLevel<S>& level = work.level[place.level];
  const S h = sigmoid(level.obj[image * place.area + place.cell]);
  const int64_t first = int64_t(image) * work.classes * place.area + place.cell;
  const S* cls = level.cls + first;
  S* grad_cls = level.grad_cls + first;
  S by_h = 0;
#pragma unroll 4
  for (int c = 0; c < work.classes; ++c) {
    const S p = sigmoid(cls[c * place.area]);
    const S by_q = factor * focal_slope<kSquare>(p * h, gamma);
    by_h += by_q * p;
    grad_cls[c * place.area] = by_q * h * ((S(1) - p) * p);
  }
  const Ltrb<S> prediction = load_prediction(work, place, image);
  const S iou = work.max_iou[int64_t(image) * work.locations + a];
  const int last = work.first_box[image + 1];
  Ltrb<S> by_side = {0, 0, 0, 0};
  for (int g = work.first_box[image]; g < last; ++g) {
    const DeviceBox<S> box = load_box(work, g);
    if (!holds(box, place.x, place.y)) continue;
    const PairQuality<S> pair =
        pair_of(work, place, image, box, prediction, gaussian_of(work, box, place.level));
    S by_confidence, by_gaussian, q_slope, r_slope;
    pair_slopes(work, g, pair, &by_confidence, &by_gaussian);
    confidence_gradient(pair, work.options.feature_filter, &q_slope, &r_slope);
    S by_q = by_confidence * q_slope;
    if (!outdone(work, g, last, box.cls, place.x, place.y)) {
      const S w = weight_of(work, g, iou);
      by_q += factor *
              (w * focal_slope<kSquare>(pair.q * w, gamma) - focal_slope<kSquare>(pair.q, gamma));
    }
    grad_cls[box.cls * place.area] += by_q * h * ((S(1) - pair.p) * pair.p);
    by_h += by_q * pair.p;
    const Ltrb<S> part =
        regression_quality_gradient(prediction, pair.target, pair.overlap, work.options.iou_type,
                                    S(work.options.reg_weight), pair.r, by_confidence * r_slope);
    by_side = {by_side.l + part.l, by_side.t + part.t, by_side.r + part.r, by_side.b + part.b};
  }
  level.grad_obj[image * place.area + place.cell] = by_h * ((S(1) - h) * h);
  S* side = level.grad_box + image * 4 * place.area + place.cell;
  side[0] = by_side.l, side[place.area] = by_side.t;
  side[2 * place.area] = by_side.r, side[3 * place.area] = by_side.b;
}

// One block a (box, level): its sums behind the gradients of mu and sigma.
template <typename S>
__global__ void __launch_bounds__(kBoxThreads, 1) gaussian_sums_kernel(const CudaWork<S> work) {
  __shared__ double shared[kBoxThreads];
  const int g = blockIdx.x, l = blockIdx.y, image = image_of(work.first_box, work.images, g);
  const DeviceBox<S> box = load_box(work, g);
  const Cells cells = cells_inside(work, box, l);
  const Gaussian<S> gaussian = gaussian_of(work, box, l);
  double sums[4] = {0, 0, 0, 0};
  for (int k = threadIdx.x; k < cells.count(); k += kBoxThreads) {
    const Location<S> place = location_inside(work, l, cells, k);
    const PairQuality<S> pair =
        pair_of(work, place, image, box, load_prediction(work, place, image), gaussian);
    S by_confidence, by_gaussian;
    pair_slopes(work, g, pair, &by_confidence, &by_gaussian);
    const S ex = by_gaussian * pair.gaussian * pair.dx, ey = by_gaussian * pair.gaussian * pair.dy;
    sums[0] += ex, sums[1] += ey, sums[2] += ex * pair.dx, sums[3] += ey * pair.dy;
  }
  for (int i = 0; i < 4; ++i) {
    const double sum = block_reduce<kBoxThreads>(sums[i], Sum(), shared);
    if (threadIdx.x == 0) work.box_sums[(int64_t(g) * work.levels + l) * 4 + i] = sum;
  }
}

// One thread a row of mu and sigma: adds up its boxes in order.
template <typename S>
__global__ void __launch_bounds__(kThreads, 4)
    gaussian_gradients_kernel(const CudaWork<S> work, int rows) {
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int cls = row % work.classes, own = row / work.classes;
  const bool shared_row = work.level_step == 0;
  double sums[4] = {0, 0, 0, 0};
  for (int g = 0; g < work.boxes; ++g) {
    const DeviceBox<S> box = load_box(work, g);
    if (box.cls != cls) continue;
    for (int l = shared_row ? 0 : own; l < (shared_row ? work.levels : own + 1); ++l) {
      const double* from = work.box_sums + (int64_t(g) * work.levels + l) * 4;
      for (int i = 0; i < 4; ++i) sums[i] += from[i];
    }
  }
  const Gaussian<S> scale =
      make_gaussian(S(0), S(0), S(0), S(0), S(1), work.mu + 2 * row, work.sigma + 2 * row);
  work.grad_mu[2 * row] = S(sums[0] * scale.by_mu_x);
  work.grad_mu[2 * row + 1] = S(sums[1] * scale.by_mu_y);
  work.grad_sigma[2 * row] = S(sums[2] * scale.by_sigma_x);
  work.grad_sigma[2 * row + 1] = S(sums[3] * scale.by_sigma_y);
}

}  // namespace

template <typename S>
cudaError_t launch_losses(const CudaWork<S>& work, cudaStream_t stream) {
  const dim3 grid(blocks_per_image(work.locations), work.images);
  const int partials = grid.x * grid.y;
  if (partials > 0) {
    if (work.options.focal_gamma == 2) {
      negative_kernel<true, S><<<grid, kThreads, 0, stream>>>(work);
    } else {
      negative_kernel<false, S><<<grid, kThreads, 0, stream>>>(work);
    }
  }
  finish_kernel<S><<<1, kThreads, 0, stream>>>(work, partials);
  return cudaGetLastError();
}

template <typename S>
cudaError_t launch_gradients(const CudaWork<S>& work, cudaStream_t stream) {
  if (work.boxes > 0) {
    const int blocks = (work.boxes + kThreads - 1) / kThreads;
    factors_kernel<S><<<blocks, kThreads, 0, stream>>>(work);
    gaussian_sums_kernel<S><<<dim3(work.boxes, work.levels), kBoxThreads, 0, stream>>>(work);
  }
  const dim3 grid(blocks_per_image(work.locations), work.images);
  if (grid.x * grid.y > 0) {
    if (work.options.focal_gamma == 2) {
      gradients_kernel<true, S><<<grid, kThreads, 0, stream>>>(work);
    } else {
      gradients_kernel<false, S><<<grid, kThreads, 0, stream>>>(work);
    }
  }
  const int rows = work.classes * (work.level_step == 0 ? 1 : work.levels);
  const int blocks = (rows + kThreads - 1) / kThreads;
  if (blocks > 0) gaussian_gradients_kernel<S><<<blocks, kThreads, 0, stream>>>(work, rows);
  return cudaGetLastError();
}

template cudaError_t launch_losses<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_losses<double>(const CudaWork<double>&, cudaStream_t);
template cudaError_t launch_gradients<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_gradients<double>(const CudaWork<double>&, cudaStream_t);

}  // namespace quality
}  // namespace fa
