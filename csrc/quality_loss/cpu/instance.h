// One instruction set's loops of the loss. The including file sets the compiler's target, after the
// system headers, and defines FA_ISA (the namespace) and FA_VECTOR_BYTES.
#pragma once

#include "quality_loss/cpu/steps.h"

#define FA_INLINE_LAMBDA __attribute__((always_inline))

namespace fa {
namespace quality {
namespace FA_ISA {

// clang-format off: in the order of use
#include "quality_loss/cpu/vector.h"
#include "quality_loss/cpu/functions.h"
#include "quality_loss/cpu/cells.h"
#include "quality_loss/cpu/statistics.h"
#include "quality_loss/cpu/negative.h"
#include "quality_loss/cpu/gradients.h"
// clang-format on

extern const Steps<float> kFloat = kSteps<Vector, float>;
extern const Steps<double> kDouble = kSteps<double, double>;

}  // namespace FA_ISA
}  // namespace quality
}  // namespace fa
