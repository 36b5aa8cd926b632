// The autocast rule of the deformable convolution: features and weights are cast to autocast's
// dtype, offsets and mask to float32, because half precision cannot hold a coordinate (steps of
// 0.125 pixels beyond 128).
#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace fa::deform {
namespace {

using at::Tensor;
using std::optional;

template <c10::DeviceType kDevice, c10::DispatchKey kKey>
struct Autocast {
  static Tensor features(const Tensor& tensor) {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(kDevice), tensor, kDevice);
  }
  static optional<Tensor> features(const optional<Tensor>& tensor) {
    return tensor ? optional<Tensor>(features(*tensor)) : std::nullopt;
  }
  static Tensor points(const Tensor& tensor) {
    return at::autocast::cached_cast(at::kFloat, tensor, kDevice);
  }

  static Tensor conv(const Tensor& input, const Tensor& weight, const Tensor& offset,
                     const optional<Tensor>& mask, const optional<Tensor>& bias,
                     c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                     c10::SymIntArrayRef dilation) {
    const c10::impl::ExcludeDispatchKeyGuard off(kKey);
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("fa_detectron::deform_conv2d", "")
            .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, const optional<Tensor>&,
                          const optional<Tensor>&, c10::SymIntArrayRef, c10::SymIntArrayRef,
                          c10::SymIntArrayRef)>();
    return op.call(features(input), features(weight), points(offset),
                   mask ? optional<Tensor>(points(*mask)) : std::nullopt, features(bias), stride,
                   padding, dilation);
  }

  static std::vector<Tensor> levels(at::TensorList inputs, at::TensorList offset_masks,
                                    const Tensor& weight, const optional<Tensor>& bias) {
    const c10::impl::ExcludeDispatchKeyGuard off(kKey);
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow("fa_detectron::deform_conv2d_levels", "")
            .typed<std::vector<Tensor>(at::TensorList, at::TensorList, const Tensor&,
                                       const optional<Tensor>&)>();
    std::vector<Tensor> features_used, points_used;
    for (const Tensor& input : inputs) features_used.push_back(features(input));
    for (const Tensor& raw : offset_masks) points_used.push_back(points(raw));
    return op.call(features_used, points_used, features(weight), features(bias));
  }
};

using OnCpu = Autocast<c10::kCPU, c10::DispatchKey::AutocastCPU>;
using OnCuda = Autocast<c10::kCUDA, c10::DispatchKey::AutocastCUDA>;

}  // namespace

TORCH_LIBRARY_IMPL(fa_detectron, AutocastCPU, m) {
  m.impl("deform_conv2d", TORCH_FN(OnCpu::conv));
  m.impl("deform_conv2d_levels", TORCH_FN(OnCpu::levels));
}
TORCH_LIBRARY_IMPL(fa_detectron, AutocastCUDA, m) {
  m.impl("deform_conv2d", TORCH_FN(OnCuda::conv));
  m.impl("deform_conv2d_levels", TORCH_FN(OnCuda::levels));
}

}  // namespace fa::deform
