// Samples the columns of the deformable convolution.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include "deform_conv/cuda/sample.cuh"

namespace fa::deform::cuda {
namespace {

constexpr int kTaps = 9;  // whose records exist at a time
// At least this many blocks a multiprocessor: 32 warps hide the latency of the corners' loads.
constexpr int kBlocks = 4;

// The channels of an offset group, cut into slices.
struct Slices {
  int32_t channels, count;
};

// Grid (patches, slices of all offset groups times batches of kTaps taps), the second one looped
// over. Small blocks, so that a chunk makes enough of them.
template <typename T, int kSize>
__global__ void __launch_bounds__(kThreads, kBlocks)
    columns_kernel(const Samples<T> s, int lane_bits, Slices slices, uint32_t works,
                   T* __restrict__ columns) {
  using Sum = at::opmath_type<T>;
  __shared__ Begin begins[kPlaces];
  __shared__ Record<Sum> records[kTaps * kPlaces];
  const Geometry& g = s.geometry;
  const Part part(lane_bits);
  const int32_t group_channels = g.channels / g.offset_groups, of_tap = g.channels / g.groups;
  const uint32_t pitch = g.channels * uint32_t(sizeof(T));
  for (uint32_t work = blockIdx.y; work < works; work += gridDim.y) {
    const uint32_t all = slices.count * g.offset_groups, first_tap = work / all * kTaps;
    const uint32_t slice = work % all % slices.count, offset_group = work % all / slices.count;
    const int taps = make_records<kTaps>(s, first_tap, offset_group, begins, records);
    const int32_t end = min((slice + 1) * slices.channels, uint32_t(group_channels));
    for (int32_t c = slice * slices.channels + part.lane * kSize; c < end;
         c += part.lanes * kSize) {
      const int32_t channel = offset_group * group_channels + c;
      T* const of_channel = columns + column_of(g, channel) + int64_t(first_tap) * of_tap;
      for (int place = part.first_place(); place < kPlaces; place += part.parts) {
        const Begin begin = begins[place];
        if (begin.column < 0) continue;
        const T* const input = s.input + begin.input + channel;
        T* const column = of_channel + begin.column;
        for (int tap = part.first_tap(); tap < taps; tap += part.tap_step()) {
          const Record<Sum>& record = records[tap * kPlaces + place];
          Vector<T, kSize> corners[4];
          load_corners(input, pitch, record, corners);
          Sum sample[kSize] = {};
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            Sum corner[kSize];
            corners[k].unpack(corner);
            add_corner(record.weight[k], corner, sample);
          }
          Vector<T, kSize>::pack(sample).store(column + int64_t(tap) * of_tap);
        }
      }
    }
    __syncthreads();  // the records are read before the next ones are made
  }
}

template <typename T, int kSize>
void launch(const Samples<T>& s, T* columns) {
  const Geometry& g = s.geometry;
  const int32_t channels = g.channels / g.offset_groups, taps = g.kernel_h * g.kernel_w;
  const int bits = lane_bits(channels / kSize);
  const Slices slices = {kSize == 1 ? 64 : kSize << bits, 0};
  const int32_t count = (channels + slices.channels - 1) / slices.channels;
  const int64_t works = int64_t(count) * g.offset_groups * ((taps + kTaps - 1) / kTaps);
  const dim3 grid(patch_count(s), works < 65535 ? works : 65535);
  columns_kernel<T, kSize><<<grid, kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
      s, bits, Slices{slices.channels, count}, static_cast<uint32_t>(works), columns);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

template <typename T>
void launch_columns(const Samples<T>& samples, T* columns) {
  if (takes_vectors(samples, columns)) {
    launch<T, kVectorSize<T>>(samples, columns);
  } else {
    launch<T, 1>(samples, columns);
  }
}

template void launch_columns<float>(const Samples<float>&, float*);
template void launch_columns<double>(const Samples<double>&, double*);
template void launch_columns<c10::Half>(const Samples<c10::Half>&, c10::Half*);
template void launch_columns<c10::BFloat16>(const Samples<c10::BFloat16>&, c10::BFloat16*);

}  // namespace fa::deform::cuda
