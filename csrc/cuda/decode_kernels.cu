// Kernels behind decode_detections.
#include "cuda/decode_launch.h"
#include "math/decode.h"

namespace fa {
namespace decode {
namespace {

__device__ __forceinline__ int64_t bits_of(float score) {
  int32_t bits;
  memcpy(&bits, &score, 4);
  return bits;
}

// One thread a location and class. The exact score only where the rough one comes near the
// threshold: double precision is slow on most cards.
__global__ void __launch_bounds__(kThreads) keys_kernel(const KeyWork work) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int image = blockIdx.y;
  if (at >= int64_t(work.classes) * work.area) return;
  const int c = int(at / work.area), cell = int(at % work.area);
  const int64_t pair = int64_t(image) * work.classes * work.area + at;
  const float logit = work.cls[pair];
  const float objectness = work.obj[int64_t(image) * work.area + cell];
  int64_t key = 0;
  const float rough = 1.f / ((1.f + expf(-logit)) * (1.f + expf(-objectness)));
  if (rough * 1.0001f + 1e-30f > work.threshold) {
    const float score = exact_sigmoid(logit) * exact_sigmoid(objectness);
    const int64_t index = int64_t(cell) * work.classes + c;
    if (score > work.threshold) key = (bits_of(score) << 32) | (0xffffffffll - index);
  }
  work.keys[pair] = key;
}

constexpr int kNear = 256;  // detections of an image that NMS holds in shared memory

// A candidate, or with the class -1 the end of them.
struct Candidate {
  Corners<float> box;
  int32_t cls, score_bits;
};

__device__ __forceinline__ Candidate load_candidate(const KeepWork& work, int image, int rank) {
  Candidate candidate = {{0, 0, 0, 0}, -1, 0};
  if (rank >= work.candidates) return candidate;
  const int64_t first = int64_t(image) * work.candidates;
  const int position = int(work.order[first + rank]);
  const int64_t key = work.keys[first + position];
  if (key == 0) return candidate;
  int l = 0;
  while (l + 1 < work.levels && position >= work.level[l + 1].first) ++l;
  const KeepLevel& level = work.level[l];
  const int64_t index = 0xffffffffll - (key & 0xffffffffll);
  candidate.score_bits = int32_t(key >> 32);
  candidate.cls = int(index % work.classes);
  const int cell = int(index / work.classes);
  const int64_t area = int64_t(level.height) * level.width;
  const float* box = level.box + image * 4 * area + cell;
  const float x = (float(cell % level.width) + work.location_offset) * level.stride;
  const float y = (float(cell / level.width) + work.location_offset) * level.stride;
  candidate.box = {x - box[0], y - box[area], x + box[2 * area], y + box[3 * area]};
  return candidate;
}

// One block an image: greedy class-wise NMS in the given order. The threads load a candidate each,
// then each tests some of the boxes kept so far; the candidates behind the last detection are never
// looked at.
__global__ void __launch_bounds__(kThreads) keep_kernel(const KeepWork work) {
  __shared__ Candidate next[kThreads];
  __shared__ Corners<float> near_box[kNear];
  __shared__ int32_t near_class[kNear];
  const int image = blockIdx.x;
  // What is kept is read again behind a barrier: the first kNear from here, others from where they
  // go.
  const int64_t first_kept = int64_t(image) * work.capacity;
  Corners<float>* const kept_box = reinterpret_cast<Corners<float>*>(work.boxes) + first_kept;
  int64_t* const kept_class = work.labels + first_kept;
  int kept = 0;
  bool more = true;
  for (int first = 0; first < work.candidates && more; first += kThreads) {
    __syncthreads();  // the last ones are done with
    next[threadIdx.x] = load_candidate(work, image, first + threadIdx.x);
    __syncthreads();
    for (int i = 0; i < kThreads && more; ++i) {
      const Candidate candidate = next[i];
      more = candidate.cls >= 0 && kept < work.capacity;
      if (!more) break;
      int suppressed = 0;
      for (int k = threadIdx.x; k < kept; k += kThreads) {
        const bool near = k < kNear;
        if ((near ? near_class[k] : int32_t(kept_class[k])) == candidate.cls &&
            suppresses(near ? near_box[k] : kept_box[k], candidate.box, work.nms_threshold)) {
          suppressed = 1;
        }
      }
      if (__syncthreads_or(suppressed)) continue;
      if (threadIdx.x == 0) {
        kept_box[kept] = candidate.box;
        kept_class[kept] = candidate.cls;
        if (kept < kNear) near_box[kept] = candidate.box, near_class[kept] = candidate.cls;
        memcpy(work.scores + first_kept + kept, &candidate.score_bits, 4);
      }
      ++kept;
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) work.counts[image] = kept;
}

}  // namespace

cudaError_t launch_keys(const KeyWork& work, cudaStream_t stream) {
  const int64_t pairs = int64_t(work.classes) * work.area;
  const dim3 grid(unsigned((pairs + kThreads - 1) / kThreads), work.images);
  keys_kernel<<<grid, kThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

cudaError_t launch_keep(const KeepWork& work, cudaStream_t stream) {
  keep_kernel<<<work.images, kThreads, 0, stream>>>(work);
  return cudaGetLastError();
}

}  // namespace decode
}  // namespace fa
