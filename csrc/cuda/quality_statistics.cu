// Kernels behind quality_statistics.
#include "cuda/quality_device.cuh"

namespace fa {
namespace quality {
namespace {

// One thread a location: its largest IoU with any box of the image, where it lies inside one.
template <typename S>
__global__ void __launch_bounds__(kThreads, 4) max_iou_kernel(const CudaWork<S> work) {
  const int a = blockIdx.x * kThreads + threadIdx.x, image = blockIdx.y;
  if (a >= work.locations) return;
  const Location<S> place = locate(work, a);
  const Ltrb<S> prediction = load_prediction(work, place, image);
  bool inside = false;
  S best = 0;
  for (int g = work.first_box[image]; g < work.first_box[image + 1]; ++g) {
    const DeviceBox<S> box = load_box(work, g);
    inside = inside || holds(box, place.x, place.y);
    const Ltrb<S> target = {place.x - box.x1, place.y - box.y1, box.x2 - place.x, box.y2 - place.y};
    const S iou = overlap(prediction, target).iou;
    best = iou <= best ? best : iou;
  }
  work.max_iou[int64_t(image) * work.locations + a] = inside ? best : S(0);
}

// One block a box.
template <typename S>
__global__ void __launch_bounds__(kBoxThreads, 1) statistics_kernel(const CudaWork<S> work) {
  __shared__ double shared[kBoxThreads];
  const int g = blockIdx.x, image = image_of(work.first_box, work.images, g);
  const DeviceBox<S> box = load_box(work, g);
  double weight = 0, confidence = 0, prior = 0, count = 0;
  double low_joint = INFINITY, high_joint = -INFINITY, low_iou = INFINITY, high_iou = -INFINITY;
  for (int l = 0; l < work.levels; ++l) {
    const Cells cells = cells_inside(work, box, l);
    const Gaussian<S> gaussian = gaussian_of(work, box, l);
    for (int k = threadIdx.x; k < cells.count(); k += kBoxThreads) {
      const Location<S> place = location_inside(work, l, cells, k);
      const PairQuality<S> pair =
          pair_of(work, place, image, box, load_prediction(work, place, image), gaussian);
      const S w = exp(S(3) * pair.confidence) * pair.gaussian;
      const S iou =
          work.max_iou[int64_t(image) * work.locations + work.level[l].first + place.cell];
      weight += w, confidence += w * pair.confidence, prior += pair.gaussian, count += 1;
      low_joint = Lowest()(low_joint, pair.joint), high_joint = Highest()(high_joint, pair.joint);
      low_iou = Lowest()(low_iou, iou), high_iou = Highest()(high_iou, iou);
    }
  }
  // In shared memory: the second pass needs the registers.
  __shared__ CudaStatistics out;
  const auto reduce = [&](double value, auto op, double* to) {
    const double result = block_reduce<kBoxThreads>(value, op, shared);
    if (threadIdx.x == 0) *to = result;
  };
  reduce(weight, Sum(), &out.bag_weight);
  reduce(confidence, Sum(), &out.bag_confidence);
  reduce(prior, Sum(), &out.gaussian);
  reduce(low_joint, Lowest(), &out.lowest_joint);
  reduce(high_joint, Highest(), &out.highest_joint);
  reduce(low_iou, Lowest(), &out.lowest_iou);
  reduce(high_iou, Highest(), &out.highest_iou);
  reduce(count, Sum(), &out.count);
  if (threadIdx.x == 0) out.prior_root = 0;
  __syncthreads();
  if (out.count == 0) {
    if (threadIdx.x == 0) {
      out.lowest_joint = out.highest_joint = out.lowest_iou = out.highest_iou = 0;
    }
  } else if (work.options.quality_prior) {
    double root = 0;
    for (int l = 0; l < work.levels; ++l) {
      const Cells cells = cells_inside(work, box, l);
      const Gaussian<S> gaussian = gaussian_of(work, box, l);
      for (int k = threadIdx.x; k < cells.count(); k += kBoxThreads) {
        const Location<S> place = location_inside(work, l, cells, k);
        const PairQuality<S> pair =
            pair_of(work, place, image, box, load_prediction(work, place, image), gaussian);
        const S v = prior_weight<S, S>(pair.joint, S(out.lowest_joint), S(out.highest_joint));
        root += sqrt(clamp_min(v * pair.gaussian, S(1e-12)));
      }
    }
    reduce(root, Sum(), &out.prior_root);
  }
  if (threadIdx.x == 0) work.statistics[g] = out;
}

}  // namespace

template <typename S>
cudaError_t launch_statistics(const CudaWork<S>& work, cudaStream_t stream) {
  if (work.boxes == 0 || work.locations == 0) return cudaSuccess;
  const dim3 grid(blocks_per_image(work.locations), work.images);
  max_iou_kernel<S><<<grid, kThreads, 0, stream>>>(work);
  statistics_kernel<S><<<work.boxes, kBoxThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

template cudaError_t launch_statistics<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_statistics<double>(const CudaWork<double>&, cudaStream_t);

}  // namespace quality
}  // namespace fa
