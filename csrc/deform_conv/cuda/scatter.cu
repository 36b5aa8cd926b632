// From the gradient by the columns: the input's gradient, added sample by sample to sums in memory.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <limits>
#include <type_traits>

#include "common/device.h"
#include "deform_conv/cuda/sample.cuh"
#include "deform_conv/cuda/window.h"

namespace fa::deform::cuda {
namespace {

constexpr int kTaps = 9;  // whose records exist at a time

// kAdded entries of a column, side by side.
template <typename T, int kAdded>
struct alignas(sizeof(T) * kAdded) Entries {
  T value[kAdded];
};

// The additions of one lane, side by side in memory.
template <typename Sum, int kAdded>
__device__ inline void add(Sum* to, Sum weight, const Sum (&grad)[kAdded]) {
  Sum value[kAdded];
#pragma unroll
  for (int j = 0; j < kAdded; ++j) value[j] = weight * grad[j];
  if constexpr (kAdded == 1) {
    atomicAdd(to, value[0]);
  } else {
    fa::cuda::add_vector(to, value);
  }
}

// The same in integers: two's complement sums wrap alike with and without a sign. Whether the
// addend is finite.
template <typename Sum>
__device__ inline bool add_fixed(unsigned long long* to, Sum value) {
  if (!(abs(value) < Sum(1LL << 62))) return false;
  atomicAdd(to, static_cast<unsigned long long>(llrint(value)));
  return true;
}

// A warp's additions that lie side by side in memory make the fewest transactions in L2, which is
// what bounds this kernel: 16 bytes a lane (kAdded = 4) where the device has such additions, else
// one float. Grid (patches, offset groups times batches of kTaps taps), the second one looped over.
template <typename T, int kAdded, bool kFixed>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const Samples<T> s, const InputGradient<T> to, int lane_bits, uint32_t works,
                   const T* __restrict__ columns) {
  using Sum = at::opmath_type<T>;
  __shared__ Begin begins[kPlaces];
  __shared__ uint32_t images[kPlaces];
  __shared__ Record<Sum> records[kTaps * kPlaces];
  const Geometry& g = s.geometry;
  const Part part(lane_bits);
  const int32_t group_channels = g.channels / g.offset_groups, of_tap = g.channels / g.groups;
  const int64_t pixels = int64_t(g.height) * g.width;
  bool wild = false;  // an addend that is not finite
  for (uint32_t work = blockIdx.y; work < works; work += gridDim.y) {
    const uint32_t first_tap = work / g.offset_groups * kTaps;
    const uint32_t offset_group = work % g.offset_groups;
    if (threadIdx.x < kPlaces) images[threadIdx.x] = place_of(s, blockIdx.x, threadIdx.x).image;
    const int taps = make_records<kTaps>(s, first_tap, offset_group, begins, records);
    for (int r = part.first; r < taps * kPlaces; r += part.parts) {
      const int64_t begin = begins[r % kPlaces].column;
      if (begin < 0) continue;
      const Record<Sum>& record = records[r];
      const T* const column = columns + begin + int64_t(first_tap + r / kPlaces) * of_tap;
      for (int32_t c = part.lane * kAdded; c < group_channels; c += part.lanes * kAdded) {
        const int32_t channel = offset_group * group_channels + c;
        const auto entries =
            *reinterpret_cast<const Entries<T, kAdded>*>(column + column_of(g, channel));
        Sum grad[kAdded];
#pragma unroll
        for (int j = 0; j < kAdded; ++j) grad[j] = Sum(entries.value[j]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (record.corner[k] < 0) continue;
          const int64_t pixel = images[r % kPlaces] * pixels + record.corner[k];
          const int64_t index = pixel * g.channels + channel;
          if constexpr (kFixed) {
            wild |= !add_fixed(static_cast<unsigned long long*>(to.sums) + index,
                               record.weight[k] * grad[0] * to.fixed[0]);
          } else {
            add(static_cast<Sum*>(to.sums) + index, record.weight[k], grad);
          }
        }
      }
    }
    __syncthreads();  // the records are read before the next ones are made
  }
  if constexpr (kFixed) {
    if (wild) atomicAdd(to.fixed + 1, std::numeric_limits<Sum>::quiet_NaN());
  }
}

template <typename T, int kAdded, bool kFixed>
void launch(const Samples<T>& s, const InputGradient<T>& to, const T* columns) {
  const Geometry& g = s.geometry;
  int bits = kAdded == 1 ? 5 : kLaneBits;
  while (bits > 0 && (kAdded << (bits - 1)) >= g.channels / g.offset_groups) --bits;
  const int64_t works = int64_t(g.offset_groups) * ((g.kernel_h * g.kernel_w + kTaps - 1) / kTaps);
  const dim3 grid(patch_count(s), works < 65535 ? works : 65535);
  scatter_kernel<T, kAdded, kFixed><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      s, to, bits, static_cast<uint32_t>(works), columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
void launch_scatter(const Samples<T>& samples, const InputGradient<T>& to, const T* columns) {
  if (to.fixed != nullptr) return launch<T, 1, true>(samples, to, columns);
  if constexpr (!std::is_same_v<T, double>) {
    if (fits_window(samples)) return launch_window(samples, static_cast<float*>(to.sums), columns);
    const bool vectors = takes_vectors(samples, columns) && samples.geometry.channels % 4 == 0 &&
                         reinterpret_cast<uintptr_t>(to.sums) % 16 == 0;
    if (vectors && fa::cuda::has_vector_additions())
      return launch<T, 4, false>(samples, to, columns);
  }
  launch<T, 1, false>(samples, to, columns);
}

#define FA_INSTANTIATE(T) \
  template void launch_scatter<T>(const Samples<T>&, const InputGradient<T>&, const T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)
FA_INSTANTIATE(c10::Half)
FA_INSTANTIATE(c10::BFloat16)

}  // namespace fa::deform::cuda
