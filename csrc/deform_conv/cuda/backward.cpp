// Backward of the deformable convolution on CUDA: a chunk's gradient by the columns, which one
// kernel adds to the input's gradient and another turns into the gradients by offsets and mask and
// replaces by the columns, then the product with those for the weight's gradient.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "deform_conv/cuda/blocks.h"
#include "deform_conv/cuda/products.h"

namespace fa::deform::cuda {
namespace {

using at::Tensor;

bool wants_points(const Level& level) {
  return level.grad_input.defined() || level.grad_offset.defined() || level.grad_mask.defined();
}

// Whether the sums of the input's gradient need memory of their own, in another type or layout.
bool needs_sums(const Level& level, bool fixed) {
  return level.grad_input.defined() &&
         (fixed || level.grad_input.scalar_type() != compute_type(level.grad_input) ||
          !are_rows(level.grad_input));
}

// (2) in the compute type: the power of two by which the addends of the level's grad_input are
// scaled before they are rounded to integers, and 0, or NaN where a gradient, weight or mask is not
// finite; the kernel makes it NaN where an addend is not finite, as products in float16 may be. No
// sum overflows, and nothing waits for the host: an addend is at most (largest gradient) * (largest
// sum of a weight's column over the outputs) * (largest mask), and a pixel has at most one of each
// tap and position of its image.
Tensor fixed_scale(const Level& level, const Tensor& weight) {
  const Arguments& a = level.arguments;
  const auto largest = [](const Tensor& tensor) {
    return at::linalg_vector_norm(tensor, std::numeric_limits<double>::infinity()).to(at::kDouble);
  };
  Tensor bound = largest(level.grad_output) * weight.abs().sum({1}, false, at::kDouble).amax();
  if (level.mask.defined() && !level.mask_is_logit) bound = bound * largest(level.mask);
  bound = bound * double(a.kernel_h * a.kernel_w * a.out_height * a.out_width);
  // Two bits for what rounding adds to the bound. The power is a number of the compute type, too.
  const at::ScalarType type = compute_type(weight);
  const double most = type == at::kDouble ? 1000 : 126;
  const Tensor power = bound.log2().neg().add(61).floor().clamp(-most, most).exp2().to(type);
  return at::stack({power, (bound - bound).to(type)});
}

// One pass over all chunks, block by block.
class Backward {
 public:
  Backward(const std::vector<Level>& levels, const Tensor& weight, bool needs_weight)
      : levels_(levels),
        first_(levels[0].arguments),
        fixed_(at::globalContext().deterministicAlgorithms()),
        row_(first_.kernel_h * first_.kernel_w * first_.channels),
        weight_(packed_weight(weight, first_.groups)) {
    if (needs_weight) grad_weight_.emplace(weight_);
    std::vector<LevelSize> sizes;
    for (const Level& level : levels) {
      const Arguments& a = level.arguments;
      const int64_t image = a.height * a.width * a.channels;
      const int64_t of_input = are_rows_each(level.input) ? 0 : weight.element_size();
      const int64_t of_sums =
          needs_sums(level, fixed_) ? (fixed_ ? 8 : c10::elementSize(compute_type(weight))) : 0;
      sizes.push_back({a.batch, a.out_height, a.out_width, image * std::max(of_input, of_sums)});
      wants_points_ = wants_points_ || wants_points(level);
      if (level.grad_input.defined() && !needs_sums(level, fixed_)) level.grad_input.zero_();
    }
    plan_ = make_plan(sizes, row_ * weight.element_size());
    if (plan_.rows == 0) return;
    columns_ = at::empty({plan_.rows, row_}, weight.options());
    for (const Level& level : levels) {
      const bool scaled = fixed_ && level.grad_input.defined() && level.arguments.batch > 0;
      scales_.push_back(scaled ? fixed_scale(level, weight_) : Tensor());
    }
  }

  Tensor run() {
    if (!wants_points_ && !grad_weight_) return Tensor();
    for (const Chunk& chunk : plan_.chunks) {
      const Tensor columns = columns_.narrow(0, 0, chunk.rows);
      const Tensor grads = gradient_rows(chunk);
      if (wants_points_) multiply_gradient(grads, weight_, columns);
      for (const Segment& segment : chunk.segments) {
        open(segment);
        FA_DISPATCH(columns.scalar_type(), [&] { launch_segment<scalar_t>(segment); });
        close(segment);
      }
      if (grad_weight_) grad_weight_->add(grads, columns);
    }
    return grad_weight_ ? grad_weight_->sum() : Tensor();
  }

 private:
  const Block& block_of(const Segment& segment) const { return plan_.blocks[segment.block]; }
  const Level& level_of(const Segment& segment) const { return levels_[block_of(segment).level]; }

  // grad_output of a chunk's positions, (rows, O).
  Tensor gradient_rows(const Chunk& chunk) {
    const Segment& only = chunk.segments[0];
    if (chunk.segments.size() == 1 && are_rows(level_of(only).grad_output)) {
      const Arguments& a = level_of(only).arguments;
      const int64_t image = a.out_height * a.out_width;
      return rows_of(level_of(only).grad_output)
          .narrow(0, block_of(only).first_image * image + only.first, chunk.rows);
    }
    if (!rows_.defined()) rows_ = at::empty({plan_.rows, first_.outputs}, weight_.options());
    for (const Segment& segment : chunk.segments) {
      const Level& level = level_of(segment);
      const Arguments& a = level.arguments;
      FA_DISPATCH(rows_.scalar_type(), [&] {
        launch_to_rows(map_of<const scalar_t>(level.grad_output, block_of(segment).first_image),
                       a.outputs, a.out_height, a.out_width, positions_of(segment, a),
                       rows_.mutable_data_ptr<scalar_t>() + segment.row * a.outputs);
      });
    }
    return rows_.narrow(0, 0, chunk.rows);
  }

  template <typename T>
  void launch_segment(const Segment& segment) {
    const Block& block = block_of(segment);
    const Level& level = level_of(segment);
    const Samples<T> samples = samples_of<T>(level, block, segment, input_);
    T* columns = columns_.mutable_data_ptr<T>() + segment.row * row_;
    using Sum = at::opmath_type<T>;
    if (sums_.defined()) {
      const Tensor& scale = scales_[block.level];
      launch_scatter<T>(
          samples,
          {sums_.mutable_data_ptr(), scale.defined() ? scale.mutable_data_ptr<Sum>() : nullptr},
          columns);
    }
    if (level.grad_offset.defined() || level.grad_mask.defined()) {
      PointGradients<T> to;
      to.offset = map_of<Sum>(level.grad_offset, block.first_image);
      to.mask = map_of<Sum>(level.grad_mask, block.first_image);
      to.columns = grad_weight_.has_value();
      launch_points(samples, to, columns);
    } else if (grad_weight_) {
      launch_columns(samples, columns);
    }
  }

  // Makes a block's input and the sums of its gradient, (images, H, W, C).
  void open(const Segment& segment) {
    if (segment.first > 0) return;
    const Block& block = block_of(segment);
    const Level& level = level_of(segment);
    const Arguments& a = level.arguments;
    input_ = BlockInput();  // its memory can be the next one's
    input_ = block_input(level, block);
    sums_ = Tensor();
    if (needs_sums(level, fixed_)) {
      const at::ScalarType type = fixed_ ? at::kLong : compute_type(level.input);
      sums_ = at::zeros({block.images, a.height, a.width, a.channels},
                        level.input.options().dtype(type));
    } else if (level.grad_input.defined()) {
      sums_ = level.grad_input.narrow(0, block.first_image, block.images);
    }
  }

  // Behind a block's last segment: its sums into the gradient of the input.
  void close(const Segment& segment) {
    const Block& block = block_of(segment);
    const Level& level = level_of(segment);
    const Arguments& a = level.arguments;
    if (segment.first + segment.count < block.images * a.out_height * a.out_width) return;
    if (!needs_sums(level, fixed_)) return;
    const Positions all = input_positions(block, a);
    FA_DISPATCH(level.grad_input.scalar_type(), [&] {
      using Sum = at::opmath_type<scalar_t>;
      const Map<scalar_t> to = map_of<scalar_t>(level.grad_input, block.first_image);
      if (fixed_) {
        launch_from_rows<int64_t, scalar_t>(sums_.const_data_ptr<int64_t>(),
                                            scales_[block.level].const_data_ptr<Sum>(), a.channels,
                                            a.height, a.width, all, to);
      } else {
        launch_from_rows<Sum, scalar_t>(sums_.const_data_ptr<Sum>(), nullptr, a.channels, a.height,
                                        a.width, all, to);
      }
    });
  }

  const std::vector<Level>& levels_;
  const Arguments& first_;
  const bool fixed_;   // the input's gradient is summed in integers
  const int64_t row_;  // entries of a row of columns
  const Tensor weight_;
  bool wants_points_ = false;
  Plan plan_;
  std::optional<WeightGradient> grad_weight_;
  Tensor columns_, rows_;
  std::vector<Tensor> scales_;  // a level; undefined where not needed
  BlockInput input_;
  Tensor sums_;
};

}  // namespace

Tensor run_backward(const std::vector<Level>& levels, const Tensor& weight, bool needs_weight) {
  const Tensor sum = Backward(levels, weight, needs_weight).run();
  return sum.defined() ? unpacked_weight(sum, weight) : sum;
}

}  // namespace fa::deform::cuda
