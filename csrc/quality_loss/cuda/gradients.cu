// Kernels behind quality_loss_backward.
#include "quality_loss/cuda/tiles.cuh"

namespace fa {
namespace quality {
namespace {

// One thread a box.
template <typename S>
__global__ void __launch_bounds__(kThreads, 4) slopes_kernel(const CudaWork<S> work) {
  const int g = blockIdx.x * kThreads + threadIdx.x;
  if (g >= work.boxes) return;
  const double alpha = work.options.focal_alpha;
  double value, slope;
  prior_term(work, image_of(work.first_box, work.images, g), &value, &slope);
  const CudaStatistics& box = work.statistics[g];
  const bool clamped = box.bag_weight < 1e-12;
  const double by_bag = work.grad_losses[0] * alpha / work.divisors[0] * bag_slope(bag_of(box));
  work.slopes[g] = {S(clamped ? 0 : bag_of(box)),
                    S(by_bag / clamp_min(box.bag_weight, 1e-12)),
                    S(work.grad_losses[2] * (1 - alpha) / work.images * slope),
                    S(box.lowest_joint),
                    S(box.highest_joint),
                    S(box.lowest_iou),
                    S(box.highest_iou)};
}

// d losses / dP and / dN of one pair.
template <typename S>
__device__ void pair_slopes(bool quality_prior, const BoxSlopes<S>& box, const PairQuality<S>& pair,
                            S* by_confidence, S* by_gaussian) {
  const S exponential = box.by_bag * exp(S(3) * pair.confidence);
  const S excess = pair.confidence - box.bag;
  *by_confidence = exponential * pair.gaussian * (S(1) + S(3) * excess);
  S prior = box.by_prior;
  if (quality_prior) {
    const S v = prior_weight<S, S>(pair.joint, box.lowest_joint, box.highest_joint);
    const S vn = v * pair.gaussian;
    prior = vn < S(1e-12) ? S(0) : prior * S(0.5) * v / sqrt(clamp_min(vn, S(1e-12)));
  }
  *by_gaussian = exponential * excess + prior;
}

// One block a tile. A thread owns the gradients of its classes at its location: those of all
// classes with M = 0, and then, with the location's other threads, those of the boxes, each by the
// thread that has its class.
template <bool kSquare, typename S>
__global__ void __launch_bounds__(kTileThreads, sizeof(S) == 4 ? 2 : 1)
    gradients_kernel(const CudaWork<S> work) {
  // By h, and by the four sides of the prediction.
  __shared__ S shared[5][kTileParts][kTileLocations];
  const Tile<S> tile = find_tile(work);
  const CudaLevel<S>& level = *tile.level;
  const int image = blockIdx.y;
  const double gamma = work.options.focal_gamma;
  const S factor = S(work.grad_losses[1] * (1 - work.options.focal_alpha) / work.divisors[1]);
  S by_h = 0;
  const TilePlace dense = tile_place(threadIdx.x, level.cls.channel == 1);
  if (const int cell = tile.first_cell + dense.location; cell < tile.area) {
    const S h = sigmoid(level.obj[image * tile.area + cell]);
    const S* const cls = channels_of(level.cls, image, cell);
    S* const grad_cls = channels_of(level.grad_cls, image, cell);
#pragma unroll 5
    for (int c = dense.part; c < work.classes; c += kTileParts) {
      const S p = sigmoid(cls[int64_t(c) * level.cls.channel]);
      const S by_q = factor * focal_slope<kSquare>(p * h, gamma);
      by_h += by_q * p;
      grad_cls[int64_t(c) * level.grad_cls.channel] = by_q * h * ((S(1) - p) * p);
    }
  }
  shared[0][dense.part][dense.location] = by_h;
  __syncthreads();

  const TilePlace mine = tile_place(threadIdx.x, false);
  const int cell = tile.first_cell + mine.location;
  by_h = 0;
  Ltrb<S> by_side = {0, 0, 0, 0};
  if (cell < tile.area) {
    const Location<S> place = locate(work, level.first + cell);
    const Ltrb<S> prediction = load_prediction(work, place, image);
    const S iou = work.max_iou[int64_t(image) * work.locations + level.first + cell];
    S* const grad_cls = channels_of(level.grad_cls, image, cell);
    const int last = work.first_box[image + 1];
    for (int g = work.first_box[image]; g < last; ++g) {
      const DeviceBox<S> box = load_box(work, g);
      if (box.cls % kTileParts != mine.part || !holds(box, place.x, place.y)) continue;
      const PairQuality<S> pair =
          pair_of(work, place, image, box, prediction, gaussian_of(work, box, place.level));
      S by_confidence, by_gaussian, q_slope, r_slope;
      const BoxSlopes<S>& of_box = work.slopes[g];
      pair_slopes(work.options.quality_prior, of_box, pair, &by_confidence, &by_gaussian);
      confidence_gradient(pair, work.options.feature_filter, &q_slope, &r_slope);
      S by_q = by_confidence * q_slope;
      if (!outdone(work, g, last, box.cls, place.x, place.y)) {
        const S w = negative_weight<S, S>(iou, of_box.lowest_iou, of_box.highest_iou);
        by_q += factor *
                (w * focal_slope<kSquare>(pair.q * w, gamma) - focal_slope<kSquare>(pair.q, gamma));
      }
      grad_cls[int64_t(box.cls) * level.grad_cls.channel] +=
          by_q * pair.h * ((S(1) - pair.p) * pair.p);
      by_h += by_q * pair.p;
      const Ltrb<S> part =
          regression_quality_gradient(prediction, pair.target, pair.overlap, work.options.iou_type,
                                      work.options.reg_weight, pair.r, by_confidence * r_slope);
      by_side = {by_side.l + part.l, by_side.t + part.t, by_side.r + part.r, by_side.b + part.b};
    }
  }
  shared[0][mine.part][mine.location] += by_h;
  shared[1][mine.part][mine.location] = by_side.l, shared[2][mine.part][mine.location] = by_side.t;
  shared[3][mine.part][mine.location] = by_side.r, shared[4][mine.part][mine.location] = by_side.b;
  __syncthreads();

  if (cell >= tile.area) return;
  for (int i = mine.part; i < 5; i += kTileParts) {
    S sum = 0;
    for (int part = 0; part < kTileParts; ++part) sum += shared[i][part][mine.location];
    if (i == 0) {
      const S h = sigmoid(level.obj[image * tile.area + cell]);
      level.grad_obj[image * tile.area + cell] = sum * ((S(1) - h) * h);
    } else {
      channels_of(level.grad_box, image, cell)[(i - 1) * int64_t(level.grad_box.channel)] = sum;
    }
  }
}

// One block a slice of a box: its sums behind the gradients of mu and sigma.
template <typename S>
__global__ void __launch_bounds__(kSliceThreads, 1) gaussian_sums_kernel(const CudaWork<S> work) {
  __shared__ double shared[kSliceThreads / 32];
  const int g = blockIdx.x / work.slices, image = image_of(work.first_box, work.images, g);
  const DeviceBox<S> box = load_box(work, g);
  const Slice slice = find_slice(work, box, g);
  double* const to = work.slice_sums + 4 * int64_t(blockIdx.x);
  if (slice.empty()) {
    if (threadIdx.x < 4) to[threadIdx.x] = 0;
    return;
  }
  const BoxSlopes<S> of_box = work.slopes[g];
  S sums[4] = {0, 0, 0, 0};  // few terms: a thread has few locations
  for_each_pair(work, slice, box, image, [&](const Location<S>&, const PairQuality<S>& pair) {
    S by_confidence, by_gaussian;
    pair_slopes(work.options.quality_prior, of_box, pair, &by_confidence, &by_gaussian);
    const S ex = by_gaussian * pair.gaussian * pair.dx, ey = by_gaussian * pair.gaussian * pair.dy;
    sums[0] += ex, sums[1] += ey, sums[2] += ex * pair.dx, sums[3] += ey * pair.dy;
  });
  for (int i = 0; i < 4; ++i) {
    const double sum = block_reduce<kSliceThreads>(double(sums[i]), Sum(), shared);
    if (threadIdx.x == 0) to[i] = sum;
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
    const int begin = shared_row ? 0 : work.level[own].first_slice;
    const int end =
        shared_row || own + 1 == work.levels ? work.slices : work.level[own + 1].first_slice;
    for (int slice = begin; slice < end; ++slice) {
      const double* from = work.slice_sums + (int64_t(g) * work.slices + slice) * 4;
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
cudaError_t launch_gradients(const CudaWork<S>& work, cudaStream_t stream) {
  if (work.boxes > 0) {
    const int blocks = (work.boxes + kThreads - 1) / kThreads;
    slopes_kernel<S><<<blocks, kThreads, 0, stream>>>(work);
    if (work.slices > 0) {
      gaussian_sums_kernel<S><<<work.boxes * work.slices, kSliceThreads, 0, stream>>>(work);
    }
  }
  const dim3 grid(work.tiles, work.images);
  if (grid.x * grid.y > 0) {
    if (work.options.focal_gamma == 2) {
      gradients_kernel<true, S><<<grid, kTileThreads, 0, stream>>>(work);
    } else {
      gradients_kernel<false, S><<<grid, kTileThreads, 0, stream>>>(work);
    }
  }
  const int rows = work.classes * (work.level_step == 0 ? 1 : work.levels);
  const int blocks = (rows + kThreads - 1) / kThreads;
  if (blocks > 0) gaussian_gradients_kernel<S><<<blocks, kThreads, 0, stream>>>(work, rows);
  return cudaGetLastError();
}

template cudaError_t launch_gradients<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_gradients<double>(const CudaWork<double>&, cudaStream_t);

}  // namespace quality
}  // namespace fa
