// csrc/cuda/ptx.cuh for the emulation: what the PTX instructions do, and what they ask for.
#pragma once

#include <ATen/cuda/CUDAContext.h>

#include "emulation/device.h"

namespace fa::cuda {

inline void add_vector(float* to, const float (&value)[4]) {
  if (at::cuda::getCurrentDeviceProperties()->major < 9)
    fa::emulation::stop("red.global.add.v4.f32 needs sm_90");
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0)
    fa::emulation::stop("red.global.add.v4.f32: the address is no multiple of 16 bytes");
  for (int i = 0; i < 4; ++i) atomicAdd(to + i, value[i]);
}

}  // namespace fa::cuda
