#include "cpu/deform_plan.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/cpu_capability.h"

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

template <typename T>
Buffer<T> pack_weight_forward(const Geometry& g, const std::vector<ChannelBlock>& blocks, int panel,
                              const T* weight) {
  const int64_t padded = padded_outputs(g, panel), row = int64_t(g.channels / g.groups) * g.taps();
  Buffer<T> packed(blocks.size() * packed_block(g, panel));
  for_each_block(g, blocks.size(), [&](int64_t b, int tap, int taps, int64_t i) {
    const ChannelBlock& block = blocks[b];
    T* to = packed.data() + i * padded * kColumn;
    const int first = block.channel - block.group * (g.channels / g.groups);
    for (int64_t o = 0; o < padded; ++o) {
      T* column = to + o / panel * panel * kColumn + o % panel;
      const T* from = weight + (block.group * int64_t(g.group_outputs()) + o) * row +
                      int64_t(first) * g.taps() + tap;
      for (int c = 0; c < kChannelBlock; ++c) {
        const bool there = o < g.group_outputs() && c < block.channels;
        for (int t = 0; t < taps; ++t) {
          column[(t * kChannelBlock + c) * panel] = there ? from[c * g.taps() + t] : T(0);
        }
      }
    }
  });
  return packed;
}

template <typename T>
Buffer<T> pack_weight_backward(const Geometry& g, const std::vector<ChannelBlock>& blocks,
                               int panel, const T* weight) {
  const int64_t padded = padded_outputs(g, panel), row = int64_t(g.channels / g.groups) * g.taps();
  Buffer<T> packed(blocks.size() * packed_block(g, panel));
  for_each_block(g, blocks.size(), [&](int64_t b, int tap, int taps, int64_t i) {
    const ChannelBlock& block = blocks[b];
    T* to = packed.data() + i * padded * kColumn;
    const int first = block.channel - block.group * (g.channels / g.groups);
    for (int64_t o = 0; o < padded; ++o) {
      const T* from = weight + (block.group * int64_t(g.group_outputs()) + o) * row +
                      int64_t(first) * g.taps() + tap;
      for (int k = 0; k < taps * kChannelBlock; ++k) {
        const int c = k % kChannelBlock, t = k / kChannelBlock;
        const bool there = o < g.group_outputs() && c < block.channels;
        to[(k / panel * padded + o) * panel + k % panel] = there ? from[c * g.taps() + t] : T(0);
      }
    }
  });
  return packed;
}

template <typename T>
void add_grad_weight(const Geometry& g, const ChannelBlock& block, int panel, const T* packed,
                     int parts, int64_t stride, T* grad_weight) {
  const int64_t padded = padded_outputs(g, panel), row = int64_t(g.channels / g.groups) * g.taps();
  const int first = block.channel - block.group * (g.channels / g.groups);
  for (int64_t o = 0; o < g.group_outputs(); ++o) {
    T* to = grad_weight + (block.group * int64_t(g.group_outputs()) + o) * row +
            int64_t(first) * g.taps();
    for (int tap = 0; tap < g.taps(); ++tap) {
      const T* from =
          packed + tap / kTapBlock * padded * kColumn + o / panel * panel * kColumn + o % panel;
      for (int c = 0; c < block.channels; ++c) {
        const T* element = from + (tap % kTapBlock * kChannelBlock + c) * panel;
        T sum = element[0];
        for (int part = 1; part < parts; ++part) sum += element[part * stride];
        to[int64_t(c) * g.taps() + tap] += sum;
      }
    }
  }
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
