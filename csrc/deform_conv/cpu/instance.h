// One instruction set's kernels of deform_conv2d. The including file sets the compiler's target and
// defines FA_ISA (the namespace), FA_KERNELS (the function that hands them out), FA_VECTOR_BYTES
// and FA_ROWS.
#pragma once

#include "common/macros.h"
#include "deform_conv/cpu/types.h"
#include "deform_conv/math.h"

namespace fa::deform {
namespace FA_ISA {
// clang-format off: in the order of use
#include "deform_conv/cpu/vector.h"
#include "deform_conv/cpu/forward.h"
#include "deform_conv/cpu/backward.h"
// clang-format on
static_assert(kPad % kRows == 0 && kTile % kPad == 0 && kColumn % kRows == 0);
}  // namespace FA_ISA

template <typename T>
const Kernels<T>& FA_KERNELS() {
  static constexpr Kernels<T> kernels = {
      FA_ISA::kPanel<T>,    FA_ISA::kRows,     FA_ISA::pack_input<T>, FA_ISA::forward_tile<T>,
      FA_ISA::pack_grad<T>, FA_ISA::locate<T>, FA_ISA::backward<T>};
  return kernels;
}
template const Kernels<float>& FA_KERNELS<float>();
template const Kernels<double>& FA_KERNELS<double>();

}  // namespace fa::deform
