// Kernels that are right, and kernels with one fault each: for test_emulation.py, which runs
// `program NAME` and looks at the line that it prints.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <ATen/cuda/Atomic.cuh>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/intrinsics.cuh"

namespace {

cudaStream_t stream() { return at::cuda::getCurrentCUDAStream(); }

// ---- the block's barrier

template <bool kBarrier>
__global__ void __launch_bounds__(64) reverse_kernel(const float* from, float* to) {
  __shared__ float values[64];
  values[threadIdx.x] = from[blockIdx.x * 64 + threadIdx.x];
  if (kBarrier) __syncthreads();
  to[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
}

template <bool kBarrier>
bool reverse() {
  std::vector<float> from(5 * 64), to(5 * 64);
  for (size_t i = 0; i < from.size(); ++i) from[i] = float(i);
  reverse_kernel<kBarrier><<<5, 64, 0, stream()>>>(from.data(), to.data());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  for (int i = 0; i < 5 * 64; ++i) {
    if (to[i] != from[i / 64 * 64 + 63 - i % 64]) return false;
  }
  return true;
}

// A ring passed on: without the second barrier a value is overwritten before it is read.
template <bool kSecond>
__global__ void ring_kernel(int* to) {
  __shared__ int values[64];
  int mine = threadIdx.x;
  for (int step = 0; step < 64; ++step) {
    values[threadIdx.x] = mine;
    __syncthreads();
    mine = values[(threadIdx.x + 1) % 64];
    if (kSecond) __syncthreads();
  }
  to[threadIdx.x] = mine;
}

template <bool kSecond>
bool ring() {
  std::vector<int> to(64);
  ring_kernel<kSecond><<<1, 64, 0, stream()>>>(to.data());
  for (int i = 0; i < 64; ++i) {
    if (to[i] != i) return false;
  }
  return true;
}

__global__ void votes_kernel(int* to) {
  const int any = __syncthreads_or(threadIdx.x == 70), none = __syncthreads_or(0);
  const int all = __syncthreads_and(threadIdx.x < 96), some = __syncthreads_and(threadIdx.x > 0);
  const int count = __syncthreads_count(threadIdx.x % 3 == 0);
  to[threadIdx.x] = (any != 0) + 2 * (none != 0) + 4 * (all != 0) + 8 * (some != 0) + 16 * count;
}

bool votes() {
  std::vector<int> to(96);
  votes_kernel<<<1, 96, 0, stream()>>>(to.data());
  return to == std::vector<int>(96, 1 + 4 + 16 * 32);
}

__global__ void divergent_kernel() {
  if (threadIdx.x < 16) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

// ---- warps

__global__ void bits_kernel(const unsigned* words, const float* divisors, int* counts,
                            float* quotients) {
  counts[2 * threadIdx.x] = __popc(words[threadIdx.x]);
  counts[2 * threadIdx.x + 1] = __ffs(int(words[threadIdx.x]));
  quotients[threadIdx.x] = __fdividef(3.f, divisors[threadIdx.x]);
}

bool bits() {
  const std::vector<unsigned> words = {0, 1, 0x80000000, 0xffffffff, 0x0000f0f0};
  const std::vector<float> divisors = {1.5f, -2.f, 0.f, 1e38f, 1e-30f};  // 1e38 is above 2^126
  std::vector<int> counts(10);
  std::vector<float> quotients(5);
  bits_kernel<<<1, 5, 0, stream()>>>(words.data(), divisors.data(), counts.data(),
                                     quotients.data());
  return counts == std::vector<int>{0, 0, 1, 1, 1, 32, 32, 1, 8, 5} && quotients[0] == 2.f &&
         quotients[1] == -1.5f && std::isinf(quotients[2]) && quotients[3] == 0.f &&
         quotients[4] == 3.f / 1e-30f;
}

__global__ void require_kernel(const int* values) { fa::cuda::require(values[threadIdx.x] > 0); }

bool require() {
  const std::vector<int> values = {3, 0, 1};
  require_kernel<<<1, 3, 0, stream()>>>(values.data());
  return true;
}

__global__ void warp_kernel(float* sums, int* others) {
  float sum = threadIdx.x;
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffff, sum, distance);
  }
  sums[threadIdx.x] = sum;
  const int self = threadIdx.x, lane = self % 32;
  int* const out = others + 6 * self;
  out[0] = __shfl_sync(0xffffffff, self, 3);
  out[1] = __shfl_sync(0xffffffff, self, 3, 8);
  out[2] = __shfl_up_sync(0xffffffff, self, 2, 16);
  out[3] = __shfl_down_sync(0xffffffff, self, 2, 16);
  out[4] = int(__ballot_sync(0xffffffff, lane == 4 || lane == 30));
  out[5] = 0;
  if (lane < 8) out[5] = __any_sync(0xff, lane == 7) + 2 * __all_sync(0xff, lane < 7);
}

bool warps() {
  std::vector<float> sums(64);
  std::vector<int> others(6 * 64);
  warp_kernel<<<1, 64, 0, stream()>>>(sums.data(), others.data());
  for (int i = 0; i < 64; ++i) {
    const int warp = i / 32 * 32, lane = i % 32, *out = others.data() + 6 * i;
    if (sums[i] != float(32 * warp + 31 * 16)) return false;
    if (out[0] != warp + 3 || out[1] != warp + lane / 8 * 8 + 3) return false;
    if (out[2] != (lane % 16 < 2 ? i : i - 2) || out[3] != (lane % 16 > 13 ? i : i + 2))
      return false;
    if (out[4] != (1 << 4 | 1 << 30) || out[5] != (lane < 8 ? 1 : 0)) return false;
  }
  return true;
}

__global__ void absent_lane_kernel(float* to) {
  if (threadIdx.x < 16) to[threadIdx.x] = __shfl_sync(0xffff, 1.f, 20);
}

bool absent_lane() {
  std::vector<float> to(16);
  absent_lane_kernel<<<1, 32, 0, stream()>>>(to.data());
  return to[0] != to[0] && to[15] != to[15];
}

__global__ void half_warp_kernel() {
  if (threadIdx.x < 16) __syncwarp();
  __syncthreads();
}

// Shuffles order no accesses to memory: only kBarrier makes this right.
template <bool kBarrier>
__global__ void warp_exchange_kernel(int* to) {
  __shared__ int values[32];
  values[threadIdx.x] = threadIdx.x;
  __shfl_sync(0xffffffff, 0, 0);
  if (kBarrier) __syncwarp();
  to[threadIdx.x] = values[31 - threadIdx.x];
}

template <bool kBarrier>
bool warp_exchange() {
  std::vector<int> to(32);
  warp_exchange_kernel<kBarrier><<<1, 32, 0, stream()>>>(to.data());
  for (int i = 0; i < 32; ++i) {
    if (to[i] != 31 - i) return false;
  }
  return true;
}

// ---- shared memory

__global__ void leftover_kernel(float* to) {
  __shared__ float value;
  if (threadIdx.x == 0) {
    to[blockIdx.x] = value;
    value = 1;
  }
}

bool leftover() {
  std::vector<float> to(3);
  leftover_kernel<<<3, 32, 0, stream()>>>(to.data());
  return to[0] != to[0] && to[1] != to[1] && to[2] != to[2];
}

__global__ void dynamic_kernel(int count, float* to) {
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ int offset;
  float* values = reinterpret_cast<float*>(memory);
  if (threadIdx.x == 0) offset = 7;
  for (int i = threadIdx.x; i < count; i += blockDim.x) values[i] = float(i);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = values[count - 1 - i] + offset;
}

bool dynamic(size_t bytes) {
  std::vector<float> to(100);
  dynamic_kernel<<<1, 32, bytes, stream()>>>(100, to.data());
  for (int i = 0; i < 100; ++i) {
    if (to[i] != float(99 - i + 7)) return false;
  }
  return true;
}

bool much_shared(int allowed, size_t bytes) {
  cudaFuncSetAttribute(dynamic_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
  return dynamic(bytes);
}

__global__ void add_vector_kernel(float* to) {
  const float value[4] = {1, 2, 3, 4};
  fa::cuda::add_vector(to, value);
}

bool add_vector(int first) {
  alignas(16) float to[8] = {};
  add_vector_kernel<<<2, 64, 0, stream()>>>(to + first);
  for (int i = 0; i < 4; ++i) {
    if (to[first + i] != float(128 * (i + 1))) return false;
  }
  return true;
}

__global__ void beyond_shared_kernel(int index, int* to) {
  __shared__ int values[32];
  __shared__ int others[32];
  values[threadIdx.x] = others[threadIdx.x] = 1;
  int* first = values;
  to[threadIdx.x] = first[threadIdx.x + index];
}

// ---- memory of all blocks

template <bool kAtomic>
__global__ void sum_kernel(int* sum, float* highest) {
  if (kAtomic) {
    gpuAtomicAddNoReturn(sum, 1);
    atomicMax(reinterpret_cast<int*>(highest), int(threadIdx.x));
  } else if (threadIdx.x == 0) {
    *sum += 1;
  }
}

template <bool kAtomic>
bool sum() {
  int total = 0;
  float highest = 0;
  sum_kernel<kAtomic><<<dim3(4, 2), dim3(8, 4, 2), 0, stream()>>>(&total, &highest);
  return total == (kAtomic ? 8 * 64 : 8 * 8);
}

// The same thread of every block.
__global__ void blocks_kernel(int* sum) {
  if (threadIdx.x == 0) *sum += 1;
}

bool blocks(int threads) {
  int total = 0;
  blocks_kernel<<<3, threads, 0, stream()>>>(&total);
  return total == 3;
}

__global__ void indices_kernel(int* to) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  to[block * blockDim.x * blockDim.y * blockDim.z + thread] += block * 1000 + thread;
}

__global__ void nothing_kernel() {}

bool indices() {
  std::vector<int> to(24 * 30);
  nothing_kernel<<<1, 1, 0, stream()>>>();  // the block grows, shrinks and grows
  indices_kernel<<<dim3(2, 3, 4), dim3(5, 3, 2), 0, stream()>>>(to.data());
  nothing_kernel<<<2, 7, 0, stream()>>>();
  nothing_kernel<<<2, 1024, 0, stream()>>>();
  for (int i = 0; i < 24 * 30; ++i) {
    if (to[i] != i / 30 * 1000 + i % 30) return false;
  }
  return true;
}

bool launched(dim3 grid, dim3 block, size_t shared, cudaStream_t on) {
  nothing_kernel<<<grid, block, shared, on>>>();
  return true;
}

bool beyond_shared(int index) {
  std::vector<int> to(32);
  beyond_shared_kernel<<<1, 32, 0, stream()>>>(index, to.data());
  return true;
}

template <void (*kKernel)()>
bool faulty() {
  kKernel<<<1, 32, 0, stream()>>>();
  return true;
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string, std::function<bool()>> programs = {
      {"reverse", reverse<true>},
      {"reverse without barrier", reverse<false>},
      {"ring", ring<true>},
      {"ring without second barrier", ring<false>},
      {"votes", votes},
      {"divergent", faulty<divergent_kernel>},
      {"two barriers", faulty<two_barriers_kernel>},
      {"warps", warps},
      {"bits", bits},
      {"require", require},
      {"absent lane", absent_lane},
      {"half warp", faulty<half_warp_kernel>},
      {"warp exchange", warp_exchange<true>},
      {"warp exchange by shuffle", warp_exchange<false>},
      {"leftover", leftover},
      {"dynamic", [] { return dynamic(400); }},
      {"dynamic too small", [] { return dynamic(396); }},
      {"dynamic too large", [] { return dynamic(48 * 1024 + 1); }},
      {"much dynamic", [] { return much_shared(64 << 10, 64 << 10); }},
      {"more dynamic than allowed", [] { return much_shared(64 << 10, (64 << 10) + 1); }},
      {"more dynamic than there is", [] { return much_shared((227 << 10) + 1, 400); }},
      {"vector addition", [] { return add_vector(0); }},
      {"misaligned vector addition", [] { return add_vector(1); }},
      {"inside shared", [] { return beyond_shared(0); }},
      {"beyond shared", [] { return beyond_shared(1); }},
      {"atomic sum", sum<true>},
      {"sum without atomics", sum<false>},
      {"a sum of blocks", [] { return blocks(32); }},
      {"a sum of blocks of one thread", [] { return blocks(1); }},
      {"indices", indices},
      {"no blocks", [] { return launched(0, 1, 0, stream()); }},
      {"too many blocks", [] { return launched(dim3(1, 65536), 1, 0, stream()); }},
      {"too many threads", [] { return launched(1, 1025, 0, stream()); }},
      {"default stream", [] { return launched(1, 1, 0, nullptr); }},
  };
  try {
    if (std::string(arguments[1]) == "no guard") {
      launched(1, 1, 0, stream());
    }
    const c10::cuda::CUDAGuard guard{c10::Device(c10::kCPU)};
    std::puts(programs.at(arguments[1])() ? "right" : "wrong");
  } catch (const c10::Error& error) {
    std::puts(error.what_without_backtrace());
  }
}
