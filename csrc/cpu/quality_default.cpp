// The loss's loops for the instruction set "default" (see core/cpu_capability.h).
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>

#include "cpu/quality_steps.h"

#define FA_VECTOR_BYTES 16
#define FA_INLINE_LAMBDA __attribute__((always_inline))

namespace fa {
namespace quality {
namespace portable {

#include "cpu/quality_vector.h"
//
#include "cpu/quality_cells.h"
//
#include "cpu/quality_statistics.h"
//
#include "cpu/quality_negative.h"
//
#include "cpu/quality_gradients.h"

extern const Steps<float> kFloat = kSteps<Vector, float>;
extern const Steps<double> kDouble = kSteps<double, double>;

}  // namespace portable
}  // namespace quality
}  // namespace fa
