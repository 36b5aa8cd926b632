// The input's gradient through windows in shared memory.
#pragma once

#include "deform_conv/cuda/kernels.h"

namespace fa::deform::cuda {

// Whether the window takes most of a patch's samples, and whether the device has shared memory for
// enough of them. FA_CUDA_SCATTER=window or memory decides instead, for benchmarks.
template <typename T>
bool fits_window(const Samples<T>& samples);

// As launch_scatter, into float32 sums (images, H, W, C).
template <typename T>
void launch_window(const Samples<T>& samples, float* sums, const T* columns);

}  // namespace fa::deform::cuda
