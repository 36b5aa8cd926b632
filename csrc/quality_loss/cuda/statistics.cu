// Kernels behind quality_statistics.
#include "common/intrinsics.cuh"
#include "quality_loss/cuda/device.cuh"

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

// One block a slice of a box. Within a thread, which has few locations, sums are of type S.
template <typename S>
__global__ void __launch_bounds__(kSliceThreads, 1) slices_kernel(const CudaWork<S> work) {
  __shared__ double sums[kSliceThreads / 32];
  __shared__ S extremes[kSliceThreads / 32];
  const int g = blockIdx.x / work.slices, image = image_of(work.first_box, work.images, g);
  if (threadIdx.x == 0)
    fa::cuda::require(work.box_classes[g] >= 0 && work.box_classes[g] < work.classes);
  const DeviceBox<S> box = load_box(work, g);
  const Slice slice = find_slice(work, box, g);
  SliceStatistics<S>* const to = work.parts + blockIdx.x;
  const S infinity = S(INFINITY);
  if (slice.empty()) {
    if (threadIdx.x == 0) *to = {0, 0, 0, 0, infinity, -infinity, infinity, -infinity, 0};
    return;
  }
  S weight = 0, confidence = 0, prior = 0;
  S low_joint = infinity, high_joint = -infinity, low_iou = infinity, high_iou = -infinity;
  const S* const max_iou =
      work.max_iou + int64_t(image) * work.locations + work.level[slice.level].first;
  for_each_pair(work, slice, box, image, [&](const Location<S>& place, const PairQuality<S>& pair) {
    const S w = exp(S(3) * pair.confidence) * pair.gaussian, iou = max_iou[place.cell];
    weight += w, confidence += w * pair.confidence, prior += pair.gaussian;
    low_joint = Lowest()(low_joint, pair.joint), high_joint = Highest()(high_joint, pair.joint);
    low_iou = Lowest()(low_iou, iou), high_iou = Highest()(high_iou, iou);
  });
  SliceStatistics<S> out;
  out.bag_weight = block_reduce<kSliceThreads>(double(weight), Sum(), sums);
  out.bag_confidence = block_reduce<kSliceThreads>(double(confidence), Sum(), sums);
  out.gaussian = block_reduce<kSliceThreads>(double(prior), Sum(), sums);
  out.prior_root = 0;
  out.lowest_joint = block_reduce<kSliceThreads>(low_joint, Lowest(), extremes);
  out.highest_joint = block_reduce<kSliceThreads>(high_joint, Highest(), extremes);
  out.lowest_iou = block_reduce<kSliceThreads>(low_iou, Lowest(), extremes);
  out.highest_iou = block_reduce<kSliceThreads>(high_iou, Highest(), extremes);
  out.count = slice.end - slice.begin;
  if (threadIdx.x == 0) *to = out;
}

// One block a slice of a box: the roots of the prior term, which need the extremes of the box.
template <typename S>
__global__ void __launch_bounds__(kSliceThreads, 1) roots_kernel(const CudaWork<S> work) {
  __shared__ double sums[kSliceThreads / 32];
  const int g = blockIdx.x / work.slices, image = image_of(work.first_box, work.images, g);
  const DeviceBox<S> box = load_box(work, g);
  const Slice slice = find_slice(work, box, g);
  if (slice.empty()) return;
  S lowest = S(INFINITY), highest = -lowest;
  const SliceStatistics<S>* const parts = work.parts + int64_t(g) * work.slices;
  for (int i = threadIdx.x % 32; i < work.slices; i += 32) {
    lowest = Lowest()(lowest, parts[i].lowest_joint);
    highest = Highest()(highest, parts[i].highest_joint);
  }
  lowest = warp_reduce(lowest, Lowest()), highest = warp_reduce(highest, Highest());
  S root = 0;
  for_each_pair(work, slice, box, image, [&](const Location<S>&, const PairQuality<S>& pair) {
    const S v = prior_weight<S, S>(pair.joint, lowest, highest);
    root += sqrt(clamp_min(v * pair.gaussian, S(1e-12)));
  });
  const double sum = block_reduce<kSliceThreads>(double(root), Sum(), sums);
  if (threadIdx.x == 0) work.parts[blockIdx.x].prior_root = sum;
}

// One block; a warp adds up a box's slices.
template <typename S>
__global__ void __launch_bounds__(kFinishThreads, 1) rows_kernel(const CudaWork<S> work) {
  __shared__ double sums[kFinishThreads / 32];
  const int lane = threadIdx.x % 32;
  double background = 0;
  for (int g = threadIdx.x / 32; g < work.boxes; g += kFinishThreads / 32) {
    CudaStatistics row = {0, 0, 0, 0, 0, INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = lane; i < work.slices; i += 32) {
      const SliceStatistics<S> part = work.parts[int64_t(g) * work.slices + i];
      row.bag_weight += part.bag_weight, row.bag_confidence += part.bag_confidence;
      row.gaussian += part.gaussian, row.prior_root += part.prior_root, row.count += part.count;
      row.lowest_joint = Lowest()(row.lowest_joint, double(part.lowest_joint));
      row.highest_joint = Highest()(row.highest_joint, double(part.highest_joint));
      row.lowest_iou = Lowest()(row.lowest_iou, double(part.lowest_iou));
      row.highest_iou = Highest()(row.highest_iou, double(part.highest_iou));
    }
    for (double* sum :
         {&row.bag_weight, &row.bag_confidence, &row.gaussian, &row.prior_root, &row.count}) {
      *sum = warp_reduce(*sum, Sum());
    }
    row.lowest_joint = warp_reduce(row.lowest_joint, Lowest());
    row.highest_joint = warp_reduce(row.highest_joint, Highest());
    row.lowest_iou = warp_reduce(row.lowest_iou, Lowest());
    row.highest_iou = warp_reduce(row.highest_iou, Highest());
    if (row.count == 0) row.lowest_joint = row.highest_joint = row.lowest_iou = row.highest_iou = 0;
    if (lane == 0) work.statistics[g] = row, background += row.gaussian;
  }
  background = block_reduce<kFinishThreads>(background, Sum(), sums);
  if (threadIdx.x == 0) *work.background = background;
}

}  // namespace

template <typename S>
cudaError_t launch_statistics(const CudaWork<S>& work, cudaStream_t stream) {
  const unsigned blocks = (work.locations + kThreads - 1) / kThreads;
  if (blocks > 0 && work.images > 0) {
    max_iou_kernel<S><<<dim3(blocks, work.images), kThreads, 0, stream>>>(work);
  }
  if (work.boxes > 0 && work.slices > 0) {
    const int slices = work.boxes * work.slices;
    slices_kernel<S><<<slices, kSliceThreads, 0, stream>>>(work);
    if (work.options.quality_prior) {
      roots_kernel<S><<<slices, kSliceThreads, 0, stream>>>(work);
    }
  }
  rows_kernel<S><<<1, kFinishThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

template cudaError_t launch_statistics<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_statistics<double>(const CudaWork<double>&, cudaStream_t);

}  // namespace quality
}  // namespace fa
