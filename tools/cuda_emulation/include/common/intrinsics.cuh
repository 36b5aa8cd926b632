// csrc/common/intrinsics.cuh for the emulation: what the instructions do, and what they ask for.
#pragma once

#include <ATen/cuda/CUDAContext.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>

#include "emulation/device.h"

namespace fa::cuda {

inline void check_vector(const void* at) {
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0)
    fa::emulation::stop("the address of a vector is no multiple of 16 bytes");
}

inline void add_vector(float* to, const float (&value)[4]) {
  if (at::cuda::getCurrentDeviceProperties()->major < 9)
    fa::emulation::stop("red.global.add.v4.f32 needs sm_90");
  check_vector(to);
  for (int i = 0; i < 4; ++i) atomicAdd(to + i, value[i]);
}

inline uint4 load_vector(const void* from) {
  check_vector(from);
  uint4 words;
  memcpy(&words, from, 16);
  return words;
}
inline void store_vector(void* to, uint4 words) {
  check_vector(to);
  memcpy(to, &words, 16);
}
inline void store_shared_vector(void* to, uint4 words) { store_vector(to, words); }

inline uint32_t pack_half(float first, float second) {
  return c10::Half(first).x | uint32_t{c10::Half(second).x} << 16;
}
inline float2 unpack_half(uint32_t word) {
  return {c10::Half(uint16_t(word), c10::Half::from_bits()),
          c10::Half(uint16_t(word >> 16), c10::Half::from_bits())};
}
inline uint32_t pack_bfloat16(float first, float second) {
  return c10::BFloat16(first).x | uint32_t{c10::BFloat16(second).x} << 16;
}

inline void require(bool condition) {
  if (!condition) fa::emulation::stop("a condition that a kernel requires is false");
}

}  // namespace fa::cuda
