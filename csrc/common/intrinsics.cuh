// All inline PTX of csrc/cuda, and what else g++ cannot compile. The emulation
// (tools/cuda_emulation) has a header of the same name in its place, so that the kernels' own code
// has none.
#pragma once

#include <c10/macros/Macros.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace fa::cuda {

// to[0..3] += value[0..3], each addition atomic by itself; `to` is a multiple of 16 bytes. One
// transaction from sm_90 on; for older devices it only has to compile: see has_vector_additions().
__device__ inline void add_vector(float* to, const float (&value)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value[0]),
               "f"(value[1]), "f"(value[2]), "f"(value[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) atomicAdd(to + i, value[i]);
#endif
}

// Sixteen bytes, in one access; the address is a multiple of 16.
__device__ inline uint4 load_vector(const void* from) { return *static_cast<const uint4*>(from); }
// To global memory. In PTX, for nvcc made four stores of some assignments.
__device__ inline void store_vector(void* to, uint4 words) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}
__device__ inline void store_shared_vector(void* to, uint4 words) {
  *static_cast<uint4*>(to) = words;
}

// Two numbers of half precision in a word, the first one in the low bits. To nearest, even at ties.
__device__ inline uint32_t pack_half(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline float2 unpack_half(uint32_t word) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
__device__ inline uint32_t pack_bfloat16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Stops all work of the process on the device where the condition is false, with an error at the
// next call that waits for it: for what the host cannot check without waiting.
__device__ inline void require(bool condition) { CUDA_KERNEL_ASSERT(condition); }

}  // namespace fa::cuda
