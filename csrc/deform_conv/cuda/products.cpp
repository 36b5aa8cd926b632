#include "deform_conv/cuda/products.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace fa::deform::cuda {
namespace {

using at::Tensor;

// (P, G * X) -> (G, P, X), a view.
Tensor grouped(const Tensor& rows, int64_t groups) {
  return rows.view({rows.size(0), groups, rows.size(1) / groups}).transpose(0, 1);
}

}  // namespace

Tensor packed_weight(const Tensor& weight, int64_t groups) {
  return weight.permute({0, 2, 3, 1}).reshape({groups, weight.size(0) / groups, -1}).contiguous();
}

Tensor unpacked_weight(const Tensor& packed, const Tensor& like) {
  // Not .contiguous(): of a single input channel that would keep the strides of the permutation.
  return at::empty(like.sizes(), like.options())
      .copy_(packed.view({like.size(0), like.size(2), like.size(3), like.size(1)})
                 .permute({0, 3, 1, 2}));
}

void multiply_columns(const Tensor& columns, const Tensor& weight, const Tensor& bias,
                      Tensor output) {
  const int64_t groups = weight.size(0);
  if (groups > 1) {
    Tensor outputs = grouped(output, groups);
    at::bmm_out(outputs, grouped(columns, groups), weight.transpose(1, 2));
    if (bias.defined()) output.add_(bias);
  } else if (bias.defined()) {
    at::addmm_out(output, bias, columns, weight[0].t());
  } else {
    at::mm_out(output, columns, weight[0].t());
  }
}

void multiply_gradient(const Tensor& grad_output, const Tensor& weight, Tensor columns) {
  const int64_t groups = weight.size(0);
  if (groups > 1) {
    Tensor outputs = grouped(columns, groups);
    at::bmm_out(outputs, grouped(grad_output, groups), weight);
  } else {
    at::mm_out(columns, grad_output, weight[0]);
  }
}

void add_weight_gradient(const Tensor& grad_output, const Tensor& columns, Tensor sum) {
  const int64_t groups = sum.size(0);
  // A product in half precision is rounded once a chunk, of thousands of positions; their sum is
  // not.
  if (groups > 1) {
    sum.add_(at::bmm(grouped(grad_output, groups).transpose(1, 2), grouped(columns, groups)));
  } else if (sum.scalar_type() == columns.scalar_type()) {
    sum[0].addmm_(grad_output.t(), columns);
  } else {
    sum[0].add_(at::mm(grad_output.t(), columns));
  }
}

}  // namespace fa::deform::cuda
