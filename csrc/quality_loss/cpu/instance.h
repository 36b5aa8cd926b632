// One instruction set's loops of the loss. The including file sets the compiler's target, after the
// system headers, and defines FA_ISA (the namespace) and FA_VECTOR_BYTES.
#pragma once

#include "cpu/quality_steps.h"

#define FA_INLINE_LAMBDA __attribute__((always_inline))

namespace fa {
namespace quality {
namespace FA_ISA {

// clang-format off: in the order of use
#include "cpu/quality_vector.h"
#include "cpu/quality_functions.h"
#include "cpu/quality_cells.h"
#include "cpu/quality_statistics.h"
#include "cpu/quality_negative.h"
#include "cpu/quality_gradients.h"
// clang-format on

extern const Steps<float> kFloat = kSteps<Vector, float>;
extern const Steps<double> kDouble = kSteps<double, double>;

}  // namespace FA_ISA
}  // namespace quality
}  // namespace fa
