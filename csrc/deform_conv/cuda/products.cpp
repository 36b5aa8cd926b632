#include "deform_conv/cuda/products.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "deform_conv/arguments.h"

namespace fa::deform::cuda {
namespace {

using at::Tensor;

constexpr int64_t kWaiting = 8;  // products; 9 MiB with 256 channels and outputs

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

WeightGradient::WeightGradient(const Tensor& packed)
    : sum_(at::zeros(packed.sizes(), packed.options().dtype(compute_type(packed)))) {}

void WeightGradient::add(const Tensor& grad_output, const Tensor& columns) {
  const int64_t groups = sum_.size(0);
  const Tensor grads = grouped(grad_output, groups).transpose(1, 2);
  if (sum_.scalar_type() == columns.scalar_type()) {
    if (groups > 1) {
      sum_.baddbmm_(grads, grouped(columns, groups));
    } else {
      sum_[0].addmm_(grads[0], columns);
    }
    return;
  }
  if (!products_.defined())
    products_ = at::empty({kWaiting, groups, sum_.size(1), sum_.size(2)}, columns.options());
  Tensor product = products_[waiting_++];
  if (groups > 1) {
    at::bmm_out(product, grads, grouped(columns, groups));
  } else {
    product = product[0];
    at::mm_out(product, grads[0], columns);
  }
  if (waiting_ == kWaiting) sum();
}

Tensor WeightGradient::sum() {
  if (waiting_ > 0) sum_.add_(products_.narrow(0, 0, waiting_).sum(0, false, sum_.scalar_type()));
  waiting_ = 0;
  return sum_;
}

}  // namespace fa::deform::cuda
