// The matrix products of the deformable convolution on CUDA, by cuBLAS in the tensors' own type:
// tensor cores for the half types, torch.backends.cuda.matmul's settings for the rest (TF32; how a
// product of halves that cuBLAS cuts along its sum is put together).
// Legend: P positions, G groups, T taps, C channels, O outputs.
#pragma once

#include <ATen/core/Tensor.h>

namespace fa::deform::cuda {

// weight (O, C / G, kh, kw) -> (G, O / G, T * C / G); no copy of a channels_last one.
at::Tensor packed_weight(const at::Tensor& weight, int64_t groups);

// The way back, of sums in any type.
at::Tensor unpacked_weight(const at::Tensor& packed, const at::Tensor& like);

// output (P, O) = columns (P, G * T * C / G) times weight, plus bias (O) where that is defined.
void multiply_columns(const at::Tensor& columns, const at::Tensor& weight, const at::Tensor& bias,
                      at::Tensor output);

// columns (P, G * T * C / G) = grad_output (P, O) times weight.
void multiply_gradient(const at::Tensor& grad_output, const at::Tensor& weight, at::Tensor columns);

// sum (G, O / G, T * C / G), in the compute type, += grad_output (P, O) times columns.
void add_weight_gradient(const at::Tensor& grad_output, const at::Tensor& columns, at::Tensor sum);

}  // namespace fa::deform::cuda
