// From the gradient by the columns: the gradients by input, offsets and mask, and the columns
// themselves for the weight's gradient.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <limits>
#include <type_traits>

#include "cuda/deform_sample.cuh"
#include "cuda/device.h"
#include "cuda/ptx.cuh"

namespace fa::deform::cuda {
namespace {

// A warp's additions that lie side by side in memory make the fewest transactions in L2, which is
// what bounds the scatter: 16 bytes a lane where the device has such additions, else one float.
__device__ inline void add(float* to, const float (&value)[4]) { fa::cuda::add_vector(to, value); }
template <typename Sum>
__device__ inline void add(Sum* to, const Sum (&value)[1]) {
  atomicAdd(to, value[0]);
}

// Adds a record's gradient by the column, times the corners' weights, to the input's gradient.
template <int kSize, typename T, typename Sum>
__device__ inline void scatter(const Geometry& g, const Record<Sum>& record, int lane, int lanes,
                               const T* columns, Sum* grad_input) {
  const int32_t channels = g.channels / g.offset_groups;
  for (int32_t c = lane * kSize; c < channels; c += lanes * kSize) {
    const int32_t channel = record.first_channel + c;
    const auto grad =
        *reinterpret_cast<const Vector<T, kSize>*>(columns + column_index(g, record, channel));
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (record.corner[k] < 0) continue;
      const int64_t pixel = int64_t(record.image) * g.height * g.width + record.corner[k];
      Sum value[kSize];
#pragma unroll
      for (int j = 0; j < kSize; ++j) value[j] = record.weight[k] * Sum(grad.value[j]);
      add(grad_input + pixel * g.channels + channel, value);
    }
  }
}

// The same in integers: two's complement sums wrap alike with and without a sign.
template <typename T, typename Sum>
__device__ inline void scatter_fixed(const Geometry& g, const Record<Sum>& record, int lane,
                                     int lanes, const T* columns, Sum* fixed,
                                     unsigned long long* grad_input) {
  const Sum scale = fixed[0];
  const int32_t channels = g.channels / g.offset_groups;
  bool wild = false;  // an addend that is not finite
  for (int32_t c = lane; c < channels; c += lanes) {
    const int32_t channel = record.first_channel + c;
    const Sum grad = Sum(columns[column_index(g, record, channel)]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (record.corner[k] < 0) continue;
      const int64_t pixel = int64_t(record.image) * g.height * g.width + record.corner[k];
      const Sum value = record.weight[k] * grad * scale;
      if (!(abs(value) < Sum(1LL << 62))) {
        wild = true;
        continue;
      }
      atomicAdd(grad_input + pixel * g.channels + channel,
                static_cast<unsigned long long>(llrint(value)));
    }
  }
  if (wild) atomicAdd(fixed + 1, std::numeric_limits<Sum>::quiet_NaN());
}

// Grid: blocks of kRecords records. Every thread takes part in all rounds, for the shuffles.
// kAdded: channels that a lane adds to the input's gradient at a time.
template <typename T, int kSize, int kAdded>
__global__ void __launch_bounds__(kThreads, kBlocks)
    points_kernel(const Samples<T> s, const PointGradients<T> to, int lane_bits, T* columns) {
  using Sum = at::opmath_type<T>;
  __shared__ Record<Sum> records[kRecords];
  __shared__ Sum dots[kRecords][4];  // of the corners with the gradient by the column
  const Geometry& g = s.geometry;
  const uint32_t first = blockIdx.x * uint32_t(kRecords), all = record_count(g, s.positions);
  const uint32_t here = min(uint32_t(kRecords), all - first);
  Point<Sum> point = {};
  if (threadIdx.x < here) point = locate(s, first + threadIdx.x, &records[threadIdx.x]);
  __syncthreads();
  const int lanes = 1 << lane_bits, lane = threadIdx.x & (lanes - 1);
  const int32_t channels = g.channels / g.offset_groups;
  const bool points_wanted = to.offset.data != nullptr || to.mask.data != nullptr;
  for (uint32_t begin = 0; begin < here; begin += kThreads >> lane_bits) {
    const uint32_t r = begin + (threadIdx.x >> lane_bits);
    const bool active = r < here;
    const Record<Sum>& record = records[active ? r : 0];
    if (active && to.input != nullptr) {
      if (to.fixed != nullptr) {
        scatter_fixed(g, record, lane, lanes, columns, to.fixed,
                      static_cast<unsigned long long*>(to.input));
      } else {
        scatter<kAdded>(g, record, lane, lanes, columns, static_cast<Sum*>(to.input));
      }
    }
    __syncwarp();  // the gradient is read by other lanes than those that overwrite it
    if (!points_wanted && !to.columns) continue;
    Sum dot[4] = {};
    for (int32_t c = lane * kSize; active && c < channels; c += kSize << lane_bits) {
      const int32_t channel = record.first_channel + c;
      auto* column =
          reinterpret_cast<Vector<T, kSize>*>(columns + column_index(g, record, channel));
      const Vector<T, kSize> grad = *column;
      Vector<T, kSize> corners[4];
      load_corners(s, record, channel, corners);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) dot[k] += Sum(corners[k].value[j]) * Sum(grad.value[j]);
      }
      if (to.columns) *column = blend(record, corners);
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int k = 0; k < 4; ++k) dot[k] += __shfl_xor_sync(0xffffffffu, dot[k], distance);
    }
    if (active && lane == 0) {
#pragma unroll
      for (int k = 0; k < 4; ++k) dots[r][k] = dot[k];
    }
  }
  if (!points_wanted) return;
  __syncthreads();
  if (threadIdx.x >= here) return;
  // The derivatives are linear in the corners: those of the dots are the dots of those.
  Sum value, dy, dx;
  bilinear_derivatives(point.ly, point.lx, dots[threadIdx.x], &value, &dy, &dx);
  if (to.offset.data != nullptr) {
    *address(to.offset, point.image, 2 * point.channel, point.y, point.x) = dy * point.mask;
    *address(to.offset, point.image, 2 * point.channel + 1, point.y, point.x) = dx * point.mask;
  }
  if (to.mask.data != nullptr) {
    const Sum slope = g.mask_is_logit ? point.mask * (Sum(1) - point.mask) : Sum(1);
    *address(to.mask, point.image, point.channel, point.y, point.x) = value * slope;
  }
}

template <typename T, int kSize, int kAdded>
void launch(const Samples<T>& s, const PointGradients<T>& gradients, T* columns) {
  const int32_t vectors = s.geometry.channels / s.geometry.offset_groups / kSize;
  const unsigned blocks = record_blocks(s.geometry, s.positions);
  points_kernel<T, kSize, kAdded><<<blocks, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      s, gradients, lane_bits(vectors), columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
void launch_points(const Samples<T>& samples, const PointGradients<T>& gradients, T* columns) {
  constexpr int kSize = 16 / sizeof(T);
  if (!takes_vectors(samples)) return launch<T, 1, 1>(samples, gradients, columns);
  if constexpr (!std::is_same_v<T, double>) {
    if (fa::cuda::has_vector_additions()) return launch<T, kSize, 4>(samples, gradients, columns);
  }
  launch<T, kSize, 1>(samples, gradients, columns);
}

#define FA_INSTANTIATE(T) \
  template void launch_points<T>(const Samples<T>&, const PointGradients<T>&, T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)
FA_INSTANTIATE(c10::Half)
FA_INSTANTIATE(c10::BFloat16)

}  // namespace fa::deform::cuda
