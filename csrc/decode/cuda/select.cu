// The first two kernels behind decode_detections: all scores above the threshold, and each level's
// best of them.
#include "decode/cuda/device.cuh"

namespace fa {
namespace decode {
namespace {

__device__ __forceinline__ uint32_t bits_of(float score) {
  uint32_t bits;
  memcpy(&bits, &score, 4);
  return bits;
}

struct NaturalLog {
  __device__ float operator()(float x) const { return logf(x); }
};

// One block a tile of locations. Class logits are only compared with a bound that follows from the
// objectness; the exact score, in double, is for those that reach it.
__global__ void __launch_bounds__(kTileThreads, 4) scores_kernel(const DecodeWork work) {
  __shared__ int histogram[kBins];
  const int image = blockIdx.y, tile = blockIdx.x;
  int l = 0;
  while (l + 1 < work.levels && tile >= work.level[l + 1].first_tile) ++l;
  const DecodeLevel& level = work.level[l];
  const int area = level.height * level.width;
  // No bin below the threshold's is used.
  const int lowest_bin = work.score_threshold > 0 ? bits_of(work.score_threshold) >> kBinShift : 0;
  for (int i = lowest_bin + threadIdx.x; i < kBins; i += kTileThreads) histogram[i] = 0;

  const TilePlace place = tile_place(threadIdx.x, level.cls.channel == 1);
  const int cell = (tile - level.first_tile) * kTileLocations + place.location;
  const bool there = cell < area;
  const float objectness = there ? level.obj[int64_t(image) * area + cell] : -INFINITY;
  // Tiny scores are denormal numbers in float, of few digits: no bound for them.
  float lowest = -INFINITY;
  if (work.score_threshold > 1e-30f) {
    const float least = work.score_threshold * (1 - kLogitSlack);
    lowest = lowest_logit(1.f / (1.f + expf(-objectness)), least, logf(least) - kLogitSlack,
                          NaturalLog());
  }
  const float* const cls = channels_of(level.cls, image, there ? cell : 0);
  const int segment = image * work.levels + l;
  uint64_t* const keys = work.keys + image * work.pairs + level.first_pair;
  __syncthreads();

  constexpr int kAhead = 5;  // loads
  for (int first = 0; first < work.classes; first += kAhead * kTileParts) {
    float logit[kAhead];
    bool reached[kAhead], any = false;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int c = first + i * kTileParts + place.part;
      reached[i] = there && c < work.classes;
      logit[i] = reached[i] ? cls[int64_t(c) * level.cls.channel] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      reached[i] = reached[i] && logit[i] >= lowest;  // NaN: no
      any = any || reached[i];
    }
    if (!__any_sync(kWarp, any)) continue;
#pragma unroll 1
    for (int i = 0; i < kAhead; ++i) {
      // The array stays in registers: the loop is not unrolled, for its body is long.
      float mine = logit[0];
      bool passes = reached[0];
#pragma unroll
      for (int j = 1; j < kAhead; ++j) {
        mine = i == j ? logit[j] : mine;
        passes = i == j ? reached[j] : passes;
      }
      float score = 0;
      if (passes) {
        score = exact_sigmoid(mine) * exact_sigmoid(objectness);
        passes = score > work.score_threshold;
      }
      const int at = reserve(passes, work.passed + segment);
      if (!passes) continue;
      const int c = first + i * kTileParts + place.part;
      const uint32_t pair = level.first_pair + uint32_t(cell) * work.classes + c;
      keys[at] = uint64_t{bits_of(score)} << 32 | (0xffffffffu - pair);
      atomicAdd(&histogram[bits_of(score) >> kBinShift], 1);
    }
  }
  __syncthreads();
  int* const to = work.histogram + int64_t(segment) * kBins;
  for (int i = lowest_bin + threadIdx.x; i < kBins; i += kTileThreads) {
    if (histogram[i] > 0) atomicAdd(to + i, histogram[i]);
  }
}

constexpr int kSelectThreads = kBins / 2;
constexpr int kRanked = 256;  // keys that are ranked by comparing them with each other

// Of a histogram: the bin that the wanted-th largest is in, how many are in higher ones and in it.
struct Cut {
  int bin, above, inside;
};

// Every thread of the block gets it.
__device__ Cut find_cut(const int* histogram, int wanted, int* warp_sums, Cut* cut) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int bin = kBins - 1 - 2 * int(threadIdx.x);  // and the next lower one
  const int higher = histogram[bin], lower = histogram[bin - 1];
  int sum = higher + lower;  // and of the lanes before
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(kWarp, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  int above = sum - higher - lower;
  for (int w = 0; w < warp; ++w) above += warp_sums[w];
  if (above < wanted && wanted <= above + higher + lower) {
    *cut = wanted <= above + higher ? Cut{bin, above, higher} : Cut{bin - 1, above + higher, lower};
  }
  __syncthreads();
  return *cut;
}

// use(key) for each key, and for some that are 0; whole warps call it.
template <typename Use>
__device__ __forceinline__ void for_each_key(const uint64_t* keys, uint32_t count, const Use& use) {
  constexpr int kAhead = 4;  // loads
  for (uint32_t first = 0; first < count; first += kAhead * kSelectThreads) {
    uint64_t key[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const uint32_t at = first + i * kSelectThreads + threadIdx.x;
      key[i] = at < count ? keys[at] : 0;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) use(key[i]);
  }
}

// One block a (level, image). The first digit of the last key to take is found in the histogram of
// the scores, further ones in histograms of the keys that share the digits before, until few keys
// share them: those are ranked.
__global__ void __launch_bounds__(kSelectThreads, 1) select_kernel(const DecodeWork work) {
  __shared__ int histogram[kBins];
  __shared__ int warp_sums[32];
  __shared__ int taken;
  __shared__ int tied;
  __shared__ uint64_t ranked[kRanked];
  __shared__ Cut cut;
  const int l = blockIdx.x, image = blockIdx.y, segment = image * work.levels + l;
  const DecodeLevel& level = work.level[l];
  const int passed = work.passed[segment];
  const uint64_t* const keys = work.keys + image * work.pairs + level.first_pair;
  uint64_t* const best = work.best + int64_t(image) * work.candidates + level.first;

  // A key belongs to the best if key >> shift is above `prefix`; of the `inside` keys where they
  // are equal `wanted` do.
  int shift = 63, wanted = passed, inside = passed;
  uint64_t prefix = 0;
  if (passed > level.limit) {
    const int* const of_scores = work.histogram + int64_t(segment) * kBins;
    const Cut first = find_cut(of_scores, level.limit, warp_sums, &cut);
    shift = 32 + kBinShift, prefix = first.bin;
    wanted = level.limit - first.above, inside = first.inside;
  }
  while (inside > wanted && inside > kRanked) {
    const int next = shift > 11 ? shift - 11 : 0, digits = 1 << (shift - next);
    for (int i = threadIdx.x; i < kBins; i += kSelectThreads) histogram[i] = 0;
    __syncthreads();
    for_each_key(keys, passed, [&](uint64_t key) {
      if (key != 0 && key >> shift == prefix)
        atomicAdd(&histogram[int(key >> next) & (digits - 1)], 1);
    });
    __syncthreads();
    const Cut further = find_cut(histogram, wanted, warp_sums, &cut);
    prefix = prefix << (shift - next) | further.bin;
    shift = next, wanted -= further.above, inside = further.inside;
  }

  if (threadIdx.x == 0) taken = tied = 0;
  __syncthreads();
  for_each_key(keys, passed, [&](uint64_t key) {
    const uint64_t high = key >> shift;
    const bool equal = key != 0 && high == prefix;
    const bool takes = key != 0 && (high > prefix || (equal && inside == wanted));
    const int at = reserve(takes, &taken), rank = reserve(equal && !takes, &tied);
    if (takes) best[at] = key;
    if (equal && !takes) ranked[rank] = key;
  });
  __syncthreads();
  if (inside > wanted) {
    const uint64_t key = int(threadIdx.x) < inside ? ranked[threadIdx.x] : 0;
    int rank = 0;
    for (int i = 0; i < inside; ++i) rank += ranked[i] > key;
    const bool takes = key != 0 && rank < wanted;
    const int at = reserve(takes, &taken);
    if (takes) best[at] = key;
  }
  for (int i = min(passed, level.limit) + threadIdx.x; i < level.limit; i += kSelectThreads) {
    best[i] = 0;
  }
}

}  // namespace

cudaError_t launch_scores(const DecodeWork& work, cudaStream_t stream) {
  scores_kernel<<<dim3(work.tiles, work.images), kTileThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

cudaError_t launch_select(const DecodeWork& work, cudaStream_t stream) {
  select_kernel<<<dim3(work.levels, work.images), kSelectThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

}  // namespace decode
}  // namespace fa
