// What of the CUDA runtime's host side the sources in csrc/*/cuda use, for the emulation.
#pragma once

#include <cstddef>
#include <cstdint>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };

// A launch that CUDA would refuse throws, see emulation/launch.h.
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

struct cudaDeviceProp {
  int major, minor;
  size_t sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
};

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributePreferredSharedMemoryCarveout  // a hint
};

namespace fa::emulation {
// Lets a kernel's launches have more dynamic shared memory than 48 KB.
void allow_shared_memory(const void* kernel, int bytes);
}  // namespace fa::emulation

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize)
    fa::emulation::allow_shared_memory(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}
