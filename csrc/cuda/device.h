// What the current device can do. Kernels have one version a capability, chosen here on the host:
// the emulation runs all of them.
#pragma once

#include <ATen/cuda/CUDAContext.h>

#include <cstddef>

namespace fa::cuda {

// Atomic additions of four floats at a time: fa::cuda::add_vector.
inline bool has_vector_additions() { return at::cuda::getCurrentDeviceProperties()->major >= 9; }

// Bytes of dynamic shared memory that a block may have, once its kernel has been told.
inline size_t largest_shared_memory() {
  return at::cuda::getCurrentDeviceProperties()->sharedMemPerBlockOptin;
}

}  // namespace fa::cuda
