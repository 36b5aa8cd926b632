#include "deform_conv/arguments.h"

#include <c10/util/Exception.h>

#include <limits>
#include <utility>
#include <vector>

namespace fa::deform {
namespace {

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

void check_like(const char* op, const char* name, const at::Tensor& tensor,
                const at::Tensor& input) {
  TORCH_CHECK_VALUE(tensor.device() == input.device(), op, ": ", name, " is on ", tensor.device(),
                    ", input on ", input.device());
  TORCH_CHECK_VALUE(tensor.scalar_type() == input.scalar_type(), op, ": ", name, " is ",
                    tensor.scalar_type(), ", input is ", input.scalar_type());
}

// Offsets and mask may stay float32 beside half-precision features: a coordinate needs the
// precision.
void check_point(const char* op, const char* name, const at::Tensor& tensor,
                 const at::Tensor& input) {
  TORCH_CHECK_VALUE(tensor.device() == input.device(), op, ": ", name, " is on ", tensor.device(),
                    ", input on ", input.device());
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == input.scalar_type() || tensor.scalar_type() == compute_type(input),
      op, ": ", name, " is ", tensor.scalar_type(), ", it must be ", input.scalar_type(),
      " as the input or ", compute_type(input));
}

void check_sizes(const char* op, const char* name, const at::Tensor& tensor,
                 at::IntArrayRef sizes) {
  TORCH_CHECK_VALUE(tensor.sizes() == sizes, op, ": ", name, " has the shape ", tensor.sizes(),
                    ", it must be ", sizes);
}

}  // namespace

at::ScalarType compute_type(const at::Tensor& input) {
  return input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::MemoryFormat output_format(const at::Tensor& input) {
  const bool last = !input.is_contiguous() && input.is_contiguous(at::MemoryFormat::ChannelsLast);
  return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

Arguments check_arguments(const char* op, const at::Tensor& input, const at::Tensor& weight,
                          const at::Tensor& offset, const std::optional<at::Tensor>& mask,
                          const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
                          at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK_VALUE(input.dim() == 4, op, ": input must be (N, C, H, W), got ", input.sizes());
  TORCH_CHECK_VALUE(weight.dim() == 4, op, ": weight must be (O, C / groups, kh, kw), got ",
                    weight.sizes());
  TORCH_CHECK_VALUE(offset.dim() == 4, op, ": offset must be (N, 2 * D * kh * kw, Ho, Wo), got ",
                    offset.sizes());
  const at::ScalarType type = input.scalar_type();
  TORCH_CHECK_VALUE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16, op,
      ": input must be float32, float64, float16 or bfloat16, got ", type);
  check_like(op, "weight", weight, input);
  check_point(op, "offset", offset, input);
  if (mask) check_point(op, "mask", *mask, input);
  if (bias) check_like(op, "bias", *bias, input);
  TORCH_CHECK_VALUE(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, op,
                    ": stride, padding and dilation need two numbers each");
  TORCH_CHECK_VALUE(stride[0] > 0 && stride[1] > 0, op, ": stride must be positive, got ", stride);
  TORCH_CHECK_VALUE(padding[0] >= 0 && padding[1] >= 0, op, ": padding must not be negative, got ",
                    padding);
  TORCH_CHECK_VALUE(dilation[0] > 0 && dilation[1] > 0, op, ": dilation must be positive, got ",
                    dilation);

  // Far beyond every use, and small enough that no sum of sizes below overflows.
  constexpr int64_t kLargest = int64_t{1} << 28;
  for (const auto& [name, numbers] : {std::pair{"stride", stride}, std::pair{"padding", padding},
                                      std::pair{"dilation", dilation}}) {
    TORCH_CHECK_VALUE(numbers[0] <= kLargest && numbers[1] <= kLargest, op, ": ", name,
                      " may be at most ", kLargest, ", got ", numbers);
  }

  Arguments a;
  a.batch = input.size(0), a.channels = input.size(1), a.height = input.size(2),
  a.width = input.size(3);
  a.outputs = weight.size(0), a.kernel_h = weight.size(2), a.kernel_w = weight.size(3);
  a.stride_h = stride[0], a.stride_w = stride[1], a.pad_h = padding[0], a.pad_w = padding[1];
  a.dilation_h = dilation[0], a.dilation_w = dilation[1];
  TORCH_CHECK_VALUE(a.channels > 0 && a.height > 0 && a.width > 0, op, ": input has no element in ",
                    input.sizes(), "; only N may be 0");
  TORCH_CHECK_VALUE(weight.numel() > 0, op, ": weight has no element in ", weight.sizes());
  TORCH_CHECK_VALUE(a.channels % weight.size(1) == 0, op, ": the input's ", a.channels,
                    " channels are no multiple of the ", weight.size(1), " that weight ",
                    weight.sizes(), " takes");
  a.groups = a.channels / weight.size(1);
  TORCH_CHECK_VALUE(a.outputs % a.groups == 0, op, ": the ", a.outputs, " outputs of weight ",
                    weight.sizes(), " do not divide into the ", a.groups, " groups that ",
                    a.channels, " input channels make");
  const int64_t taps = a.kernel_h * a.kernel_w;
  TORCH_CHECK_VALUE(offset.size(1) > 0 && offset.size(1) % (2 * taps) == 0, op, ": offset has ",
                    offset.size(1), " channels, it needs a multiple of ", 2 * taps,
                    " (dy and dx of each of the ", taps, " taps)");
  a.offset_groups = offset.size(1) / (2 * taps);
  TORCH_CHECK_VALUE(a.channels % a.offset_groups == 0, op, ": the input's ", a.channels,
                    " channels do not divide into the ", a.offset_groups,
                    " offset groups of offset ", offset.sizes());
  const int64_t reach_h = a.dilation_h * (a.kernel_h - 1) + 1,
                reach_w = a.dilation_w * (a.kernel_w - 1) + 1;
  TORCH_CHECK_VALUE(a.height + 2 * a.pad_h >= reach_h && a.width + 2 * a.pad_w >= reach_w, op,
                    ": the kernel covers ", reach_h, " x ", reach_w,
                    " pixels, more than the padded input of ", a.height + 2 * a.pad_h, " x ",
                    a.width + 2 * a.pad_w);
  a.out_height = output_size(a.height, a.kernel_h, a.stride_h, a.pad_h, a.dilation_h);
  a.out_width = output_size(a.width, a.kernel_w, a.stride_w, a.pad_w, a.dilation_w);
  check_sizes(op, "offset", offset,
              {a.batch, a.offset_groups * 2 * taps, a.out_height, a.out_width});
  if (mask)
    check_sizes(op, "mask", *mask, {a.batch, a.offset_groups * taps, a.out_height, a.out_width});
  if (bias) check_sizes(op, "bias", *bias, {a.outputs});
  // Pixels of one map and one side are counted in 32 bits; elements in 64.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  TORCH_CHECK_VALUE(a.height <= kMost / a.width && a.out_height <= kMost / a.out_width, op,
                    ": a map may have at most ", kMost, " pixels, input is ", input.sizes());
  return a;
}

void check_grad_output(const char* op, const at::Tensor& grad_output, const Arguments& a,
                       const at::Tensor& input) {
  TORCH_CHECK_VALUE(grad_output.device() == input.device(), op, ": grad_output is on ",
                    grad_output.device(), ", input on ", input.device());
  check_sizes(op, "grad_output", grad_output, {a.batch, a.outputs, a.out_height, a.out_width});
}

std::vector<Arguments> check_level_arguments(at::TensorList inputs, at::TensorList offset_masks,
                                             const at::Tensor& weight,
                                             const std::optional<at::Tensor>& bias) {
  const char* op = "deform_conv2d_levels";
  TORCH_CHECK_VALUE(inputs.size() > 0 && inputs.size() == offset_masks.size(), op,
                    ": inputs and offset_mask need one entry a level, got ", inputs.size(), " and ",
                    offset_masks.size());
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3, op,
                    ": weight must be (O, C, 3, 3), got ", weight.sizes());
  std::vector<Arguments> levels;
  for (size_t l = 0; l < inputs.size(); ++l) {
    const at::Tensor& input = inputs[l];
    const at::Tensor& raw = offset_masks[l];
    TORCH_CHECK_VALUE(input.dim() == 4 && input.size(1) == weight.size(1), op, ": inputs[", l,
                      "] must be (N, ", weight.size(1), ", H, W) for weight ", weight.sizes(),
                      ", got ", input.sizes());
    TORCH_CHECK_VALUE(raw.dim() == 4 && raw.size(1) == 27, op, ": offset_mask[", l,
                      "] must be (N, 27, H, W): 18 offsets and 9 mask logits, got ", raw.sizes());
    levels.push_back(check_arguments(op, input, weight, raw.narrow(1, 0, 18), raw.narrow(1, 18, 9),
                                     bias, {1, 1}, {1, 1}, {1, 1}));
  }
  return levels;
}

}  // namespace fa::deform
