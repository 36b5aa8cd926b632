// What the operators' autograd kernels share. They are registered for AutogradCPU, AutogradCUDA and
// AutogradMeta, not for the alias Autograd: there stands the plain-PyTorch version of the operator,
// which runs on every other device.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <optional>

namespace fa {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline bool has_tangent(const at::Tensor& x) { return x.defined() && x._fw_grad(0).defined(); }
inline bool has_tangent(const std::optional<at::Tensor>& x) { return x && has_tangent(*x); }
template <typename NoTensor>
bool has_tangent(const NoTensor&) {
  return false;
}
inline bool has_tangent(const at::TensorList& list) {
  for (const at::Tensor& x : list) {
    if (has_tangent(x)) return true;
  }
  return false;
}

// Throws where a tensor has a tangent: the kernels would lose it, and the derivative would be 0.
template <typename... Tensors>
void refuse_tangents(const Tensors&... tensors) {
  TORCH_CHECK(!(has_tangent(tensors) || ...),
              "fa_detectron's native operators have no forward-mode derivative (torch.func.jvp); "
              "FA_NO_NATIVE=1 runs them in plain PyTorch, which has");
}

}  // namespace fa

#if defined(FA_WITH_CUDA)
#define FA_AUTOGRAD_CUDA(implement) \
  TORCH_LIBRARY_IMPL(fa_detectron, AutogradCUDA, m) { implement(m); }
#else
#define FA_AUTOGRAD_CUDA(implement)
#endif
// Registers what `implement(torch::Library&)` registers for each autograd key.
#define FA_AUTOGRAD(implement)                                        \
  TORCH_LIBRARY_IMPL(fa_detectron, AutogradCPU, m) { implement(m); }  \
  TORCH_LIBRARY_IMPL(fa_detectron, AutogradMeta, m) { implement(m); } \
  FA_AUTOGRAD_CUDA(implement)
