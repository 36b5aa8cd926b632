#include "deform_conv/cpu/plan.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "common/cpu_capability.h"

namespace fa::deform {

template <typename T>
Buffer<T>::Buffer(int64_t elements)
    : memory_(
          at::empty({elements * int64_t(sizeof(T)) + 64}, at::TensorOptions().dtype(at::kByte))),
      data_(
          reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory_.data_ptr()) + 63) / 64 * 64)) {}

at::Tensor flat(const at::Tensor& tensor) {
  const bool one_stride = tensor.size(2) == 1 || tensor.size(3) == 1 || tensor.numel() == 0 ||
                          tensor.stride(2) == tensor.size(3) * tensor.stride(3);
  return one_stride ? tensor : tensor.contiguous();
}

Geometry make_geometry(const Arguments& a, bool mask_is_logit) {
  Geometry g;
  g.channels = a.channels, g.outputs = a.outputs, g.groups = a.groups,
  g.offset_groups = a.offset_groups;
  g.kernel_h = a.kernel_h, g.kernel_w = a.kernel_w, g.stride_h = a.stride_h,
  g.stride_w = a.stride_w;
  g.pad_h = a.pad_h, g.pad_w = a.pad_w, g.dilation_h = a.dilation_h, g.dilation_w = a.dilation_w;
  g.mask_is_logit = mask_is_logit;
  return g;
}

std::vector<ChannelBlock> make_blocks(const Geometry& g) {
  const int per_group = g.channels / g.groups, per_offset_group = g.channels / g.offset_groups;
  std::vector<ChannelBlock> blocks;
  for (int c = 0; c < g.channels;) {
    const int end = std::min({c + kChannelBlock, (c / per_group + 1) * per_group,
                              (c / per_offset_group + 1) * per_offset_group});
    blocks.push_back({c, end - c, c / per_group, c / per_offset_group});
    c = end;
  }
  return blocks;
}

namespace {

// `tensor` is (N, channels, H, W) with flat pixels, or undefined.
template <typename V, typename T>
View<V> make_view(const at::Tensor& tensor, int64_t image) {
  if (!tensor.defined()) return {nullptr, 0, 0};
  const int64_t pixel_stride = tensor.size(3) > 1   ? tensor.stride(3)
                               : tensor.size(2) > 1 ? tensor.stride(2)
                                                    : 1;
  return {tensor.data_ptr<T>() + image * tensor.stride(0), tensor.stride(1), pixel_stride};
}

int round_up(int value, int to) { return (value + to - 1) / to * to; }

}  // namespace

template <typename T>
std::vector<Map<T>> make_maps(const std::vector<Level>& levels) {
  std::vector<Map<T>> maps;
  for (const Level& level : levels) {
    const Arguments& a = level.arguments;
    for (int64_t n = 0; n < a.batch; ++n) {
      Map<T> map;
      map.height = a.height, map.width = a.width, map.out_height = a.out_height,
      map.out_width = a.out_width;
      map.input = make_view<const T, T>(level.input, n);
      map.offset = make_view<const T, T>(level.offset, n);
      map.mask = make_view<const T, T>(level.mask, n);
      map.output = make_view<T, T>(level.output, n);
      map.grad_input = make_view<T, T>(level.grad_input, n);
      map.grad_offset = make_view<T, T>(level.grad_offset, n);
      map.grad_mask = make_view<T, T>(level.grad_mask, n);
      // An even number of about equal tiles, so that two threads share also a small map evenly.
      const int positions = map.positions();
      int tiles =
          std::max(round_up((positions + kTile - 1) / kTile, 2), positions >= 8 * kPad ? 4 : 1);
      map.tile_size = std::min(kTile, round_up((positions + tiles - 1) / tiles, kPad));
      map.tiles = (positions + map.tile_size - 1) / map.tile_size;
      maps.push_back(map);
    }
  }
  return maps;
}

template <typename T>
const Kernels<T>& kernels() {
#if defined(__x86_64__)
  switch (cpu_capability()) {
    case CpuCapability::kAvx512:
      return kernels_avx512<T>();
    case CpuCapability::kAvx2:
      return kernels_avx2<T>();
    default:
      break;
  }
#endif
  return kernels_default<T>();
}

namespace {

// Calls f(tap block's number, its first tap, its taps, its packed memory) in parallel over blocks
// and tap blocks.
template <typename F>
void for_each_block(const Geometry& g, int64_t blocks, const F& f) {
  at::parallel_for(0, blocks * g.tap_blocks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int tap = i % g.tap_blocks() * kTapBlock;
      f(i / g.tap_blocks(), tap, std::min(kTapBlock, g.taps() - tap), i);
    }
  });
}

}  // namespace

// Where the weights (channel of the block, tap) of an output begin, and how far apart outputs and
// channels are.
struct WeightRows {
  int64_t first, output_stride, channel_stride;
  WeightRows(const Geometry& g, const ChannelBlock& block)
      : output_stride(int64_t(g.channels / g.groups) * g.taps()), channel_stride(g.taps()) {
    const int64_t channel = block.channel - block.group * (g.channels / g.groups);
    first = block.group * int64_t(g.group_outputs()) * output_stride + channel * channel_stride;
  }
};

// Outputs that are copied side by side (their rows lie far apart); panels are multiples of 4.
constexpr int kOutputRun = 4;

// Calls f(first, run) for [0, count) in runs of kRun, where run is a compile-time constant but for
// the last: the loops over a run must unroll.
template <int kRun, typename F>
void in_runs(int64_t count, const F& f) {
  int64_t first = 0;
  for (; first + kRun <= count; first += kRun) f(first, std::integral_constant<int, kRun>());
  if (first < count) f(first, static_cast<int>(count - first));
}

template <typename T>
Buffer<T> pack_weight_forward(const Geometry& g, const std::vector<ChannelBlock>& blocks, int panel,
                              const T* weight) {
  const int64_t padded = padded_outputs(g, panel);
  Buffer<T> packed(blocks.size() * packed_block(g, panel));
  for_each_block(g, blocks.size(), [&](int64_t b, int tap, int taps, int64_t i) {
    const WeightRows rows(g, blocks[b]);
    T* to = packed.data() + i * padded * kColumn;
    if (blocks[b].channels < kChannelBlock || padded > g.group_outputs()) {
      std::memset(to, 0, padded * kColumn * sizeof(T));
    }
    in_runs<kOutputRun>(g.group_outputs(), [&](int64_t o, auto run) {
      T* columns = to + o / panel * panel * kColumn + o % panel;
      const T* from = weight + rows.first + o * rows.output_stride + tap;
      for (int c = 0; c < blocks[b].channels; ++c, from += rows.channel_stride) {
        T* column = columns + c * panel;
        for (int t = 0; t < taps; ++t, column += kChannelBlock * panel) {
          for (int k = 0; k < run; ++k) column[k] = from[k * rows.output_stride + t];
        }
      }
    });
  });
  return packed;
}

template <typename T>
Buffer<T> pack_weight_backward(const Geometry& g, const std::vector<ChannelBlock>& blocks,
                               int panel, const T* weight) {
  const int64_t padded = padded_outputs(g, panel);
  Buffer<T> packed(blocks.size() * packed_block(g, panel));
  for_each_block(g, blocks.size(), [&](int64_t b, int tap, int taps, int64_t i) {
    const WeightRows rows(g, blocks[b]);
    T* to = packed.data() + i * padded * kColumn;
    if (blocks[b].channels < kChannelBlock || padded > g.group_outputs()) {
      std::memset(to, 0, padded * kColumn * sizeof(T));
    }
    for (int64_t o = 0; o < g.group_outputs(); ++o) {
      const T* from = weight + rows.first + o * rows.output_stride + tap;
      in_runs<4>(blocks[b].channels, [&](int64_t c, auto run) {  // a panel is a multiple of 4
        for (int t = 0; t < taps; ++t) {
          const int64_t column = t * kChannelBlock + c;
          T* row = to + (column / panel * padded + o) * panel + column % panel;
          for (int k = 0; k < run; ++k) row[k] = from[(c + k) * rows.channel_stride + t];
        }
      });
    }
  });
  return packed;
}

template <typename T>
void add_grad_weight(const Geometry& g, const ChannelBlock& block, int panel, const T* packed,
                     int parts, int64_t stride, T* grad_weight) {
  const int64_t padded = padded_outputs(g, panel);
  const WeightRows rows(g, block);
  const int64_t runs = (g.group_outputs() + kOutputRun - 1) / kOutputRun;
  at::parallel_for(0, runs, 4, [&](int64_t begin, int64_t end) {
    const int64_t begin_output = begin * kOutputRun;
    const int64_t outputs = std::min<int64_t>(end * kOutputRun, g.group_outputs()) - begin_output;
    in_runs<kOutputRun>(outputs, [&](int64_t first, auto run) {
      const int64_t o = begin_output + first;
      T* to = grad_weight + rows.first + o * rows.output_stride;
      for (int c = 0; c < block.channels; ++c, to += rows.channel_stride) {
        for (int tap = 0; tap < g.taps(); ++tap) {
          const T* from = packed + tap / kTapBlock * padded * kColumn +
                          o / panel * panel * kColumn +
                          (tap % kTapBlock * kChannelBlock + c) * panel + o % panel;
          T sums[kOutputRun] = {};
          for (int part = 0; part < parts; ++part, from += stride) {
            for (int k = 0; k < run; ++k) sums[k] += from[k];
          }
          for (int k = 0; k < run; ++k) to[k * rows.output_stride + tap] += sums[k];
        }
      }
    });
  });
}

#define FA_INSTANTIATE(T)                                                                       \
  template class Buffer<T>;                                                                     \
  template class Buffer<Sample<T>>;                                                             \
  template std::vector<Map<T>> make_maps<T>(const std::vector<Level>&);                         \
  template const Kernels<T>& kernels<T>();                                                      \
  template Buffer<T> pack_weight_forward<T>(const Geometry&, const std::vector<ChannelBlock>&,  \
                                            int, const T*);                                     \
  template Buffer<T> pack_weight_backward<T>(const Geometry&, const std::vector<ChannelBlock>&, \
                                             int, const T*);                                    \
  template void add_grad_weight<T>(const Geometry&, const ChannelBlock&, int, const T*, int,    \
                                   int64_t, T*);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)

}  // namespace fa::deform
