// The last kernel behind decode_detections: sorting and NMS.
#include "decode/cuda/device.cuh"

namespace fa {
namespace decode {
namespace {

constexpr int kKeepThreads = 1024;
constexpr int kGroup = 32;  // candidates that are decided together: the lanes of a warp
constexpr int kNear = 256;  // detections of an image that NMS holds in shared memory
static_assert(kKeepThreads == kGroup * kGroup, "a thread a pair of a group");

// A candidate, or with the class -1 the end of them.
struct Candidate {
  Corners<float> box;
  int32_t cls;
  float score;
};

__device__ __forceinline__ Candidate load_candidate(const DecodeWork& work, int image,
                                                    uint64_t key) {
  Candidate candidate = {{0, 0, 0, 0}, -1, 0};
  if (key == 0) return candidate;
  uint32_t pair = 0xffffffffu - uint32_t(key);
  int l = 0;
  while (l + 1 < work.levels && pair >= work.level[l + 1].first_pair) ++l;
  const DecodeLevel& level = work.level[l];
  pair -= level.first_pair;
  const uint32_t bits = uint32_t(key >> 32);
  memcpy(&candidate.score, &bits, 4);
  candidate.cls = int(pair % work.classes);
  const int cell = int(pair / work.classes), side = level.box.channel;
  const float* const box = channels_of(level.box, image, cell);
  const float x = (float(cell % level.width) + work.location_offset) * level.stride;
  const float y = (float(cell / level.width) + work.location_offset) * level.stride;
  candidate.box = {x - box[0], y - box[side], x + box[2 * int64_t(side)],
                   y + box[3 * int64_t(side)]};
  return candidate;
}

// Bitonic, largest first; the count is a power of two. Up to strides of 32 a warp keeps to 64 keys
// of its own.
__device__ void sort_keys(uint64_t* keys, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < count / 2; i += kKeepThreads) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == ((low & size) == 0)) keys[low] = b, keys[high] = a;
      }
      if (stride > 32 || (stride == 1 && size > 32)) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }
  __syncthreads();
}

// The image's best keys, brought together and sorted; returns how many they are.
__device__ int load_sorted(const DecodeWork& work, int image, uint64_t* keys) {
  int count = 0;
  for (int l = 0; l < work.levels; ++l) {
    const int found = min(work.passed[image * work.levels + l], work.level[l].limit);
    const uint64_t* const from = work.best + int64_t(image) * work.candidates + work.level[l].first;
    for (int i = threadIdx.x; i < found; i += kKeepThreads) keys[count + i] = from[i];
    count += found;
  }
  int padded = 2;
  while (padded < count) padded *= 2;
  for (int i = count + threadIdx.x; i < padded; i += kKeepThreads) keys[i] = 0;
  __syncthreads();
  sort_keys(keys, padded);
  return count;
}

// One block an image: greedy class-wise NMS, best score first. The threads load a candidate each.
// Then, a group of 32 at a time, each warp tests them against some of the boxes kept so far, and
// one of them against the others; all that is left to do in turn is to combine the answers. The
// candidates behind the last detection are never looked at.
template <bool kSort>
__global__ void __launch_bounds__(kKeepThreads, 1) keep_kernel(const DecodeWork work) {
  extern __shared__ uint64_t sorted_here[];
  __shared__ Candidate next[kKeepThreads];
  __shared__ Corners<float> near_box[kNear];
  __shared__ int32_t near_class[kNear];
  __shared__ unsigned lost[kGroup];   // by warp: lanes whose candidates a kept one suppresses
  __shared__ unsigned beats[kGroup];  // by candidate: later ones of the group that it suppresses
  const int image = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_kept = int64_t(image) * work.capacity;
  const int count = kSort ? load_sorted(work, image, sorted_here) : work.candidates;
  const uint64_t* const sorted =
      kSort ? sorted_here : work.sorted + int64_t(image) * work.candidates;
  // What is kept is read again behind a barrier: the first kNear from shared memory, others from
  // where they go.
  Corners<float>* const kept_box = reinterpret_cast<Corners<float>*>(work.boxes) + first_kept;
  int64_t* const kept_class = work.labels + first_kept;
  int kept = 0;
  bool more = true;
  for (int first = 0; first < count && more; first += kKeepThreads) {
    __syncthreads();  // the last ones are done with
    const int rank = first + threadIdx.x;
    next[threadIdx.x] = load_candidate(work, image, rank < count ? sorted[rank] : 0);
    __syncthreads();
    for (int group = 0; group < kKeepThreads && more; group += kGroup) {
      const Candidate mine = next[group + lane];
      bool suppressed = mine.cls < 0;
      for (int k = warp; k < kept; k += kGroup) {
        const bool near = k < kNear;
        if ((near ? near_class[k] : int32_t(kept_class[k])) == mine.cls) {
          suppressed = suppressed ||
                       suppresses(near ? near_box[k] : kept_box[k], mine.box, work.nms_threshold);
        }
      }
      const Candidate& other = next[group + warp];
      const bool beaten = lane > warp && mine.cls >= 0 && other.cls == mine.cls &&
                          suppresses(other.box, mine.box, work.nms_threshold);
      const unsigned votes = __ballot_sync(kWarp, suppressed);
      const unsigned beaten_votes = __ballot_sync(kWarp, beaten);
      if (lane == 0) lost[warp] = votes, beats[warp] = beaten_votes;
      __syncthreads();
      // Every warp by itself.
      unsigned gone = lost[lane];
      for (int distance = 16; distance > 0; distance /= 2) {
        gone |= __shfl_xor_sync(kWarp, gone, distance);
      }
      unsigned alive = ~gone;
      for (unsigned left = __ballot_sync(kWarp, beats[lane] != 0); left != 0; left &= left - 1) {
        const int i = __ffs(left) - 1;
        if (alive >> i & 1) alive &= ~beats[i];
      }
      const int place = kept + __popc(alive & ((1u << lane) - 1));
      if (warp == 0 && (alive >> lane & 1) && place < work.capacity) {
        kept_box[place] = mine.box;
        kept_class[place] = mine.cls;
        if (place < kNear) near_box[place] = mine.box, near_class[place] = mine.cls;
        work.scores[first_kept + place] = mine.score;
      }
      kept = min(kept + __popc(alive), work.capacity);
      more = kept < work.capacity && first + group + kGroup < count;
      __syncthreads();
    }
  }
  for (int i = kept + threadIdx.x; i < work.capacity; i += kKeepThreads) {
    kept_box[i] = {0, 0, 0, 0};
    kept_class[i] = 0;
    work.scores[first_kept + i] = 0;
  }
  if (threadIdx.x == 0) work.counts[image] = kept;
}

int64_t sorted_bytes(int64_t candidates) {
  int64_t padded = 2;
  while (padded < candidates) padded *= 2;
  return padded * sizeof(uint64_t);
}

}  // namespace

int64_t shared_bytes_to_sort(int64_t candidates) {
  constexpr int64_t kStatic = kKeepThreads * sizeof(Candidate) +
                              kNear * (sizeof(Corners<float>) + sizeof(int32_t)) +
                              2 * kGroup * sizeof(unsigned);
  return kStatic + sorted_bytes(candidates);
}

cudaError_t launch_keep(const DecodeWork& work, cudaStream_t stream) {
  if (work.sorted != nullptr) {
    keep_kernel<false><<<work.images, kKeepThreads, 0, stream>>>(work);
    return cudaGetLastError();
  }
  const int bytes = static_cast<int>(sorted_bytes(work.candidates));
  const cudaError_t error =
      cudaFuncSetAttribute(keep_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  keep_kernel<true><<<work.images, kKeepThreads, bytes, stream>>>(work);
  return cudaGetLastError();
}

}  // namespace decode
}  // namespace fa
