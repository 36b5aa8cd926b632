// Forward of the deformable convolution on CUDA: a chunk's columns, then their product with the
// weight.
#include "deform_conv/cuda/blocks.h"
#include "deform_conv/cuda/products.h"

namespace fa::deform::cuda {
namespace {

using at::Tensor;

// A chunk's product (rows, O) into the outputs of its segments.
void scatter_rows(const std::vector<Level>& levels, const Plan& plan, const Chunk& chunk,
                  const Tensor& product) {
  for (const Segment& segment : chunk.segments) {
    const Block& block = plan.blocks[segment.block];
    const Level& level = levels[block.level];
    const Arguments& a = level.arguments;
    FA_DISPATCH(product.scalar_type(), [&] {
      launch_from_rows<scalar_t, scalar_t>(
          product.const_data_ptr<scalar_t>() + segment.row * a.outputs, nullptr, a.outputs,
          a.out_height, a.out_width, positions_of(segment, a),
          map_of<scalar_t>(level.output, block.first_image));
    });
  }
}

}  // namespace

void run_forward(const std::vector<Level>& levels, const Tensor& weight, const Tensor& bias) {
  const Arguments& first = levels[0].arguments;
  const int64_t width = first.kernel_h * first.kernel_w * first.channels;  // of a row of columns
  std::vector<LevelSize> sizes;
  for (const Level& level : levels) {
    const Arguments& a = level.arguments;
    const int64_t image = a.height * a.width * a.channels * weight.element_size();
    sizes.push_back({a.batch, a.out_height, a.out_width, are_rows_each(level.input) ? 0 : image});
  }
  const Plan plan = make_plan(sizes, width * weight.element_size());
  if (plan.rows == 0) return;
  const Tensor weight_used = packed_weight(weight, first.groups);
  const Tensor buffer = at::empty({plan.rows, width}, weight.options());
  Tensor products;  // of chunks that do not lie in an output as they are
  BlockInput input;
  size_t open = plan.blocks.size();
  for (const Chunk& chunk : plan.chunks) {
    for (const Segment& segment : chunk.segments) {
      const Block& block = plan.blocks[segment.block];
      const Level& level = levels[block.level];
      if (open != segment.block) {
        input = BlockInput();  // its memory can be the next one's
        input = block_input(level, block);
        open = segment.block;
      }
      FA_DISPATCH(weight.scalar_type(), [&] {
        launch_columns(samples_of<scalar_t>(level, block, segment, input),
                       buffer.mutable_data_ptr<scalar_t>() + segment.row * width);
      });
    }
    const Tensor columns = buffer.narrow(0, 0, chunk.rows);
    const Segment& segment = chunk.segments[0];
    const Block& block = plan.blocks[segment.block];
    const Level& level = levels[block.level];
    if (chunk.segments.size() == 1 && are_rows(level.output)) {
      const int64_t image = level.arguments.out_height * level.arguments.out_width;
      multiply_columns(
          columns, weight_used, bias,
          rows_of(level.output).narrow(0, block.first_image * image + segment.first, chunk.rows));
    } else {
      if (!products.defined()) products = at::empty({plan.rows, first.outputs}, weight.options());
      const Tensor product = products.narrow(0, 0, chunk.rows);
      multiply_columns(columns, weight_used, bias, product);
      scatter_rows(levels, plan, chunk, product);
    }
  }
}

}  // namespace fa::deform::cuda
