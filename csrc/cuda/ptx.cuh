// All inline PTX of csrc/cuda. The emulation (tools/cuda_emulation) has a header of the same name in
// its place, so that the kernels' own code stands in none of it.
#pragma once

namespace fa::cuda {

// to[0..3] += value[0..3], each addition atomic by itself; `to` is a multiple of 16 bytes. One
// transaction of 16 bytes from sm_90 on; code for older cards only has to compile: see
// has_vector_additions() in device.h.
__device__ inline void add_vector(float* to, const float (&value)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value[0]),
               "f"(value[1]), "f"(value[2]), "f"(value[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) atomicAdd(to + i, value[i]);
#endif
}

}  // namespace fa::cuda
