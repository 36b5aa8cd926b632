#pragma once

#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace at::cuda {

using c10::cuda::getCurrentCUDAStream;

// Of the compute capability in FA_EMULATION_DEVICE (7.5, 8.0, 8.9 or 9.0, the default), asked for
// at each call.
cudaDeviceProp* getCurrentDeviceProperties();

}  // namespace at::cuda
