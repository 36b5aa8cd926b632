// From the gradient by the columns: the gradients by offsets and mask, and the columns themselves
// for the weight's gradient. The input's is in scatter.cu.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "deform_conv/cuda/sample.cuh"

namespace fa::deform::cuda {
namespace {

constexpr int kTaps =
    2;  // a block's: all channels of their records meet in it; with 3 registers spill
constexpr int kRecords = kTaps * kPlaces;
// Records of one part of a warp, whose dots stay in its registers over all channels.
constexpr int kRounds = kRecords * kLanes / kThreads;
static_assert(kRecords <= kThreads, "a thread writes one record's gradients");

// A multiprocessor, at least. With 3 the vectors of half precision spill a register.
template <typename T>
constexpr int kBlocks = sizeof(T) == 4 ? 3 : 2;

// Grid (patches, offset groups times batches of kTaps taps), the second one looped over. Every
// thread takes part in all rounds, for the shuffles.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kBlocks<T>)
    points_kernel(const Samples<T> s, const PointGradients<T> to, int lane_bits, uint32_t works,
                  T* columns) {
  using Sum = at::opmath_type<T>;
  __shared__ Begin begins[kPlaces];
  __shared__ Record<Sum> records[kRecords];
  __shared__ Sum dots[kRecords][4];  // of the corners with the gradient by the column
  const Geometry& g = s.geometry;
  const Part part(lane_bits);
  const int32_t group_channels = g.channels / g.offset_groups, of_tap = g.channels / g.groups;
  const uint32_t pitch = g.channels * uint32_t(sizeof(T));
  for (uint32_t work = blockIdx.y; work < works; work += gridDim.y) {
    const uint32_t first_tap = work / g.offset_groups * kTaps;
    const uint32_t offset_group = work % g.offset_groups;
    const int here = make_records<kTaps>(s, first_tap, offset_group, begins, records) * kPlaces;
    Sum dot[kRounds][4] = {};
    for (int32_t c = part.lane * kSize; c < group_channels; c += part.lanes * kSize) {
      const int32_t channel = offset_group * group_channels + c;
      T* const of_channel = columns + column_of(g, channel) + int64_t(first_tap) * of_tap;
#pragma unroll
      for (int round = 0; round < kRounds; ++round) {
        const int r = part.first + round * part.parts, tap = r / kPlaces;
        if (r >= here || begins[r % kPlaces].column < 0) continue;
        const Begin begin = begins[r % kPlaces];
        const Record<Sum>& record = records[r];
        T* const column = of_channel + (begin.column + int64_t(tap) * of_tap);
        const auto packed_grad = Vector<T, kSize>::load(column);
        Vector<T, kSize> corners[4];
        load_corners(s.input + begin.input + channel, pitch, record, corners);
        Sum grad[kSize], sample[kSize] = {}, corner[4][kSize];
        packed_grad.unpack(grad);
#pragma unroll
        for (int k = 0; k < 4; ++k) corners[k].unpack(corner[k]);
        // An entry after the other, so that few are unpacked at a time: registers are scarce.
#pragma unroll
        for (int j = 0; j < kSize; ++j) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            dot[round][k] += corner[k][j] * grad[j];
            sample[j] += record.weight[k] * corner[k][j];
          }
        }
        if (to.columns) Vector<T, kSize>::pack(sample).store(column);
      }
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      for (int distance = part.lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          dot[round][k] += __shfl_xor_sync(0xffffffffu, dot[round][k], distance);
      }
      const int r = part.first + round * part.parts;
      if (part.lane == 0 && r < here) {
#pragma unroll
        for (int k = 0; k < 4; ++k) dots[r][k] = dot[round][k];
      }
    }
    __syncthreads();
    const int r = threadIdx.x;
    if (r < here && begins[r % kPlaces].column >= 0) {
      const Place at = place_of(s, blockIdx.x, r % kPlaces);
      const uint32_t tap = first_tap + r / kPlaces, channel = point_channel(g, tap, offset_group);
      const Point<Sum> point = locate(s, at, tap, offset_group, &records[r]);
      // The derivatives are linear in the corners: those of the dots are the dots of those.
      Sum value, dy, dx;
      bilinear_derivatives(point.ly, point.lx, dots[r], &value, &dy, &dx);
      if (to.offset.data != nullptr) {
        *address(to.offset, at.image, 2 * channel, at.y, at.x) = dy * point.mask;
        *address(to.offset, at.image, 2 * channel + 1, at.y, at.x) = dx * point.mask;
      }
      if (to.mask.data != nullptr) {
        const Sum slope = g.mask_is_logit ? point.mask * (Sum(1) - point.mask) : Sum(1);
        *address(to.mask, at.image, channel, at.y, at.x) = value * slope;
      }
    }
    __syncthreads();  // the records are read before the next ones are made
  }
}

template <typename T, int kSize>
void launch(const Samples<T>& s, const PointGradients<T>& gradients, T* columns) {
  const Geometry& g = s.geometry;
  const int bits = lane_bits(g.channels / g.offset_groups / kSize);
  const int64_t works = int64_t(g.offset_groups) * ((g.kernel_h * g.kernel_w + kTaps - 1) / kTaps);
  const dim3 grid(patch_count(s), works < 65535 ? works : 65535);
  points_kernel<T, kSize><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      s, gradients, bits, static_cast<uint32_t>(works), columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
void launch_points(const Samples<T>& samples, const PointGradients<T>& gradients, T* columns) {
  if (takes_vectors(samples, columns)) {
    launch<T, kVectorSize<T>>(samples, gradients, columns);
  } else {
    launch<T, 1>(samples, gradients, columns);
  }
}

#define FA_INSTANTIATE(T) \
  template void launch_points<T>(const Samples<T>&, const PointGradients<T>&, T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)
FA_INSTANTIATE(c10::Half)
FA_INSTANTIATE(c10::BFloat16)

}  // namespace fa::deform::cuda
