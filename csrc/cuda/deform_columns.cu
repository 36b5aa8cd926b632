// Samples the columns of the deformable convolution.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "cuda/deform_sample.cuh"

namespace fa::deform::cuda {
namespace {

// Grid: blocks of kRecords records.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kBlocks)
    columns_kernel(const Samples<T> s, int lane_bits, T* __restrict__ columns) {
  using Sum = at::opmath_type<T>;
  __shared__ Record<Sum> records[kRecords];
  const uint32_t first = blockIdx.x * uint32_t(kRecords),
                 all = record_count(s.geometry, s.positions);
  if (threadIdx.x < kRecords && first + threadIdx.x < all) {
    locate(s, first + threadIdx.x, &records[threadIdx.x]);
  }
  __syncthreads();
  const int lane = threadIdx.x & ((1 << lane_bits) - 1);
  const int32_t channels = s.geometry.channels / s.geometry.offset_groups;
  const uint32_t here = min(uint32_t(kRecords), all - first);
  for (uint32_t r = threadIdx.x >> lane_bits; r < here; r += kThreads >> lane_bits) {
    const Record<Sum>& record = records[r];
    for (int32_t c = lane * kSize; c < channels; c += kSize << lane_bits) {
      const int32_t channel = record.first_channel + c;
      Vector<T, kSize> corners[4];
      load_corners(s, record, channel, corners);
      *reinterpret_cast<Vector<T, kSize>*>(columns + column_index(s.geometry, record, channel)) =
          blend(record, corners);
    }
  }
}

template <typename T, int kSize>
void launch(const Samples<T>& s, T* columns) {
  const int32_t vectors = s.geometry.channels / s.geometry.offset_groups / kSize;
  const unsigned blocks = record_blocks(s.geometry, s.positions);
  columns_kernel<T, kSize>
      <<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(s, lane_bits(vectors), columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
void launch_columns(const Samples<T>& samples, T* columns) {
  if (takes_vectors(samples)) {
    launch<T, 16 / sizeof(T)>(samples, columns);
  } else {
    launch<T, 1>(samples, columns);
  }
}

template void launch_columns<float>(const Samples<float>&, float*);
template void launch_columns<double>(const Samples<double>&, double*);
template void launch_columns<c10::Half>(const Samples<c10::Half>&, c10::Half*);
template void launch_columns<c10::BFloat16>(const Samples<c10::BFloat16>&, c10::BFloat16*);

}  // namespace fa::deform::cuda
