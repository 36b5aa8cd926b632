// From tensors to what the kernels of deform_conv2d work on: maps, channel blocks, packed weights,
// scratch memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "deform_conv/arguments.h"
#include "deform_conv/cpu/types.h"

namespace fa::deform {

// One call over several batches of maps that share the weight: a level each, or one for
// deform_conv2d. All tensors have the compute type and flat pixels (`flat`); undefined ones are not
// there (mask) or not wanted (gradients).
struct Level {
  Arguments arguments;
  at::Tensor input, offset, mask, output, grad_input, grad_offset, grad_mask;
};

// Memory that is aligned to a cache line and not set to anything.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t elements);
  T* data() const { return data_; }

 private:
  at::Tensor memory_;
  T* data_;
};

// The tensor, or a contiguous copy where its pixels do not lie at one stride.
at::Tensor flat(const at::Tensor& tensor);

Geometry make_geometry(const Arguments& arguments, bool mask_is_logit);

// Blocks of up to kChannelBlock channels that lie in one conv group and one offset group, in the
// order of channels.
std::vector<ChannelBlock> make_blocks(const Geometry& geometry);

// The images of all levels. The tiles depend on the map's size alone, never on the number of
// threads.
template <typename T>
std::vector<Map<T>> make_maps(const std::vector<Level>& levels);

// The kernels for this processor.
template <typename T>
const Kernels<T>& kernels();

// Weight (O, C / groups, T) as (blocks, tap blocks, panels, kColumn, panel): a row is a channel of
// a tap.
template <typename T>
Buffer<T> pack_weight_forward(const Geometry& geometry, const std::vector<ChannelBlock>& blocks,
                              int panel, const T* weight);
// Weight as (blocks, tap blocks, kColumn / panel, padded outputs, panel): a row is an output.
template <typename T>
Buffer<T> pack_weight_backward(const Geometry& geometry, const std::vector<ChannelBlock>& blocks,
                               int panel, const T* weight);
// Adds the sum of `parts` gradients, packed as by pack_weight_forward and `stride` apart, of one
// block to grad_weight.
template <typename T>
void add_grad_weight(const Geometry& geometry, const ChannelBlock& block, int panel,
                     const T* packed, int parts, int64_t stride, T* grad_weight);

inline int64_t padded_outputs(const Geometry& geometry, int panel) {
  return (geometry.group_outputs() + panel - 1) / panel * int64_t(panel);
}

// Elements of one channel block's packed weight.
inline int64_t packed_block(const Geometry& geometry, int panel) {
  return geometry.tap_blocks() * padded_outputs(geometry, panel) * kColumn;
}

}  // namespace fa::deform
