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

// The weight's gradient, summed over chunks in the compute type. A product in half precision is
// rounded once a chunk, of thousands of positions; their sum is not. Those wait for each other and
// are summed several at a time, which takes fewer launches.
class WeightGradient {
 public:
  // packed: the weight, (G, O / G, T * C / G).
  explicit WeightGradient(const at::Tensor& packed);
  // Adds grad_output (P, O) times columns (P, G * T * C / G).
  void add(const at::Tensor& grad_output, const at::Tensor& columns);
  // (G, O / G, T * C / G).
  at::Tensor sum();

 private:
  at::Tensor sum_, products_;  // products_: in half precision, (kWaiting, G, O / G, T * C / G)
  int64_t waiting_ = 0;
};

}  // namespace fa::deform::cuda
