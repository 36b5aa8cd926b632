#pragma once

#include <c10/cuda/CUDAStream.h>

namespace at::cuda {

using c10::cuda::getCurrentCUDAStream;

}  // namespace at::cuda
