#include "deform_conv/cuda/blocks.h"

namespace fa::deform::cuda {

BlockInput block_input(const Level& level, const Block& block) {
  const Arguments& a = level.arguments;
  BlockInput input;
  if (are_rows_each(level.input)) {
    input.owner = level.input.narrow(0, block.first_image, block.images);
    input.image_stride = input.owner.stride(0);
  } else {
    input.owner = at::empty({block.images, a.height, a.width, a.channels}, level.input.options());
    input.image_stride = a.height * a.width * a.channels;
    FA_DISPATCH(level.input.scalar_type(), [&] {
      launch_to_rows(map_of<const scalar_t>(level.input, block.first_image), a.channels, a.height,
                     a.width, input_positions(block, a), input.owner.mutable_data_ptr<scalar_t>());
    });
  }
  input.data = input.owner.const_data_ptr();
  return input;
}

template <typename T>
Samples<T> samples_of(const Level& level, const Block& block, const Segment& segment,
                      const BlockInput& input) {
  using Sum = at::opmath_type<T>;
  const Arguments& a = level.arguments;
  Samples<T> samples;
  Geometry& g = samples.geometry;
  g.channels = a.channels, g.groups = a.groups, g.offset_groups = a.offset_groups;
  g.height = a.height, g.width = a.width, g.out_height = a.out_height, g.out_width = a.out_width;
  g.kernel_h = a.kernel_h, g.kernel_w = a.kernel_w;
  g.stride_h = a.stride_h, g.stride_w = a.stride_w;
  g.pad_h = a.pad_h, g.pad_w = a.pad_w, g.dilation_h = a.dilation_h, g.dilation_w = a.dilation_w;
  g.mask_is_logit = level.mask_is_logit;
  samples.positions = positions_of(segment, a);
  const bool whole_rows = segment.first % a.out_width == 0 && segment.count % a.out_width == 0;
  samples.patches_across = whole_rows ? (a.out_width + 7) / 8 : 0;
  samples.input = static_cast<const T*>(input.data);
  samples.input_image = input.image_stride;
  samples.offset = map_of<const Sum>(level.offset, block.first_image);
  samples.mask = map_of<const Sum>(level.mask, block.first_image);
  return samples;
}

#define FA_INSTANTIATE(T) \
  template Samples<T> samples_of<T>(const Level&, const Block&, const Segment&, const BlockInput&);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)
FA_INSTANTIATE(at::Half)
FA_INSTANTIATE(at::BFloat16)

}  // namespace fa::deform::cuda
