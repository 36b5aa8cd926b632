// Kernels behind quality_loss.
#include "quality_loss/cuda/tiles.cuh"

namespace fa {
namespace quality {
namespace {

// One block a tile: all classes of its locations with M = 0, then the difference that the boxes
// make, for which the threads of a location take turns.
template <bool kSquare, typename S>
__global__ void __launch_bounds__(kTileThreads, 4) negative_kernel(const CudaWork<S> work) {
  __shared__ double shared[kTileThreads / 32];
  const Tile<S> tile = find_tile(work);
  const CudaLevel<S>& level = *tile.level;
  const int image = blockIdx.y;
  const double gamma = work.options.focal_gamma;
  S sum = 0;
  const TilePlace dense = tile_place(threadIdx.x, level.cls.channel == 1);
  if (const int cell = tile.first_cell + dense.location; cell < tile.area) {
    const S h = sigmoid(level.obj[image * tile.area + cell]);
    const S* const cls = channels_of(level.cls, image, cell);
#pragma unroll 5
    for (int c = dense.part; c < work.classes; c += kTileParts) {
      sum += focal_term<kSquare>(sigmoid(cls[int64_t(c) * level.cls.channel]) * h, gamma);
    }
  }
  double total = sum;
  const TilePlace mine = tile_place(threadIdx.x, false);
  if (const int cell = tile.first_cell + mine.location; cell < tile.area) {
    const Location<S> place = locate(work, level.first + cell);
    const S h = sigmoid(level.obj[image * tile.area + cell]);
    const S* const cls = channels_of(level.cls, image, cell);
    const S iou = work.max_iou[int64_t(image) * work.locations + level.first + cell];
    const int last = work.first_box[image + 1];
    for (int g = work.first_box[image] + mine.part; g < last; g += kTileParts) {
      const DeviceBox<S> box = load_box(work, g);
      if (!holds(box, place.x, place.y) || outdone(work, g, last, box.cls, place.x, place.y))
        continue;
      const S q = sigmoid(cls[int64_t(box.cls) * level.cls.channel]) * h;
      const CudaStatistics& of_box = work.statistics[g];
      const S w = negative_weight<S, S>(iou, S(of_box.lowest_iou), S(of_box.highest_iou));
      total += focal_term<kSquare>(q * w, gamma) - focal_term<kSquare>(q, gamma);
    }
  }
  total = block_reduce<kTileThreads>(total, Sum(), shared);
  if (threadIdx.x == 0) work.partial[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// One block.
template <typename S>
__global__ void __launch_bounds__(kFinishThreads, 1) finish_kernel(const CudaWork<S> work) {
  __shared__ double shared[kFinishThreads / 32];
  double positive = 0, negative = 0, prior = 0;
  for (int g = threadIdx.x; g < work.boxes; g += kFinishThreads) {
    positive += bag_loss(bag_of(work.statistics[g]));
  }
  const int partials = work.images * work.tiles;
#pragma unroll 4
  for (int i = threadIdx.x; i < partials; i += kFinishThreads) negative += work.partial[i];
  for (int n = threadIdx.x; n < work.images; n += kFinishThreads) {
    double value, slope;
    prior_term(work, n, &value, &slope);
    prior += value;
  }
  positive = block_reduce<kFinishThreads>(positive, Sum(), shared);
  negative = block_reduce<kFinishThreads>(negative, Sum(), shared);
  prior = block_reduce<kFinishThreads>(prior, Sum(), shared);
  if (threadIdx.x != 0) return;
  const double alpha = work.options.focal_alpha;
  work.losses[0] = S(alpha * positive / work.divisors[0]);
  work.losses[1] = S((1 - alpha) * negative / work.divisors[1]);
  work.losses[2] = S((1 - alpha) * prior / max(work.images, 1));
}

}  // namespace

template <typename S>
cudaError_t launch_losses(const CudaWork<S>& work, cudaStream_t stream) {
  const dim3 grid(work.tiles, work.images);
  if (grid.x * grid.y > 0) {
    if (work.options.focal_gamma == 2) {
      negative_kernel<true, S><<<grid, kTileThreads, 0, stream>>>(work);
    } else {
      negative_kernel<false, S><<<grid, kTileThreads, 0, stream>>>(work);
    }
  }
  finish_kernel<S><<<1, kFinishThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

template cudaError_t launch_losses<float>(const CudaWork<float>&, cudaStream_t);
template cudaError_t launch_losses<double>(const CudaWork<double>&, cudaStream_t);

}  // namespace quality
}  // namespace fa
