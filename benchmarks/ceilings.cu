// Reductions into memory for benchmarks/gpu_ceilings.py: every thread adds 16 bytes, to
// neighbouring addresses in a warp, once for each pass over the sums. By a vector (sm_90) or four
// single ones.
#include <cuda_runtime.h>

namespace {

template <bool kVector>
__global__ void reduce(float* sums, long count, int passes) {
  const long step = long(gridDim.x) * blockDim.x;
  for (int pass = 0; pass < passes; ++pass) {
    for (long i = long(blockIdx.x) * blockDim.x + threadIdx.x; i < count / 4; i += step) {
      if constexpr (kVector) {
#if __CUDA_ARCH__ >= 900
        asm volatile("red.global.add.v4.f32 [%0], {%1, %1, %1, %1};" ::"l"(sums + 4 * i), "f"(1.f)
                     : "memory");
#endif
      } else {
        const long warp = i / 32 * 32,
                   lane = i % 32;  // as a warp's lanes: one float each, side by side
        for (int j = 0; j < 4; ++j) atomicAdd(sums + 4 * warp + 32 * j + lane, 1.f);
      }
    }
  }
}

}  // namespace

extern "C" int fa_reduce(float* sums, long count, int passes, int vector, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (vector) {
    reduce<true><<<1056, 256, 0, on>>>(sums, count, passes);
  } else {
    reduce<false><<<1056, 256, 0, on>>>(sums, count, passes);
  }
  return cudaGetLastError();
}
