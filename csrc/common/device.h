// What the current device can do. Kernels have one version a capability, chosen here on the host:
// the emulation runs all of them.
#pragma once

#include <ATen/cuda/CUDAContext.h>

#include <cstddef>

namespace fa::cuda {

// Atomic additions of four floats at a time: fa::cuda::add_vector.
inline bool has_vector_additions() { return at::cuda::getCurrentDeviceProperties()->major >= 9; }

inline size_t shared_memory_of_multiprocessor() {
  return at::cuda::getCurrentDeviceProperties()->sharedMemPerMultiprocessor;
}

}  // namespace fa::cuda
