#include <ATen/Parallel.h>

#include <algorithm>

#include "deform_conv/cpu/conv.h"

namespace fa::deform {
namespace {

constexpr int64_t kPlaneElements =
    int64_t(8) << 20;  // planes that are held at once, unless one map needs more

}  // namespace

template <typename T>
void forward(const std::vector<Level>& levels, bool mask_is_logit, const at::Tensor& weight,
             const at::Tensor& bias) {
  const Kernels<T>& kernel = kernels<T>();
  const Geometry geometry = make_geometry(levels[0].arguments, mask_is_logit);
  const std::vector<ChannelBlock> blocks = make_blocks(geometry);
  const int64_t num_blocks = blocks.size();
  const std::vector<Map<T>> maps = make_maps<T>(levels);
  if (maps.empty()) return;
  const Buffer<T> packed =
      pack_weight_forward<T>(geometry, blocks, kernel.panel, weight.data_ptr<T>());
  const T* bias_data = bias.defined() ? bias.data_ptr<T>() : nullptr;
  const int64_t scratch_elements = forward_scratch<T>(padded_outputs(geometry, kernel.panel));

  for (size_t first = 0, last; first < maps.size(); first = last) {
    // Maps [first, last) together; their planes (block, pixel, channel of the block) and first
    // tiles by map.
    std::vector<int64_t> plane_at, tile_at{0};
    int64_t elements = 0;
    for (last = first; last < maps.size() && (last == first || elements < kPlaneElements); ++last) {
      plane_at.push_back(elements);
      elements += num_blocks * (maps[last].pixels() + 1) * kChannelBlock;
      tile_at.push_back(tile_at.back() + maps[last].tiles);
    }
    const Buffer<T> buffer(elements);
    std::vector<T*> planes;
    for (size_t m = first; m < last; ++m) {
      for (int64_t b = 0; b < num_blocks; ++b) {
        planes.push_back(buffer.data() + plane_at[m - first] +
                         b * (maps[m].pixels() + 1) * kChannelBlock);
      }
    }
    at::parallel_for(0, planes.size(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Map<T>& map = maps[first + i / num_blocks];
        kernel.pack_input(map.input, blocks[i % num_blocks], map.pixels(), planes[i]);
      }
    });
    at::parallel_for(0, tile_at.back(), 1, [&](int64_t begin, int64_t end) {
      const Buffer<T> scratch(scratch_elements);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t m = std::upper_bound(tile_at.begin(), tile_at.end(), i) - tile_at.begin() - 1;
        kernel.forward_tile(geometry, maps[first + m], blocks.data(), num_blocks,
                            planes.data() + m * num_blocks, packed.data(), bias_data,
                            i - tile_at[m], scratch.data());
      }
    });
  }
}

template void forward<float>(const std::vector<Level>&, bool, const at::Tensor&, const at::Tensor&);
template void forward<double>(const std::vector<Level>&, bool, const at::Tensor&,
                              const at::Tensor&);

}  // namespace fa::deform
