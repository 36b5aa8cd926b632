// The loss's loops for the instruction set "avx2" (see core/cpu_capability.h).
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>

// Everything below, the shared math too, is compiled for it; nothing above is.
#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__x86_64__)
#pragma GCC target("avx2,fma")
#endif

#include "cpu/quality_steps.h"

#define FA_VECTOR_BYTES 32
#define FA_INLINE_LAMBDA __attribute__((always_inline))

namespace fa {
namespace quality {
namespace avx2 {

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

}  // namespace avx2
}  // namespace quality
}  // namespace fa

#if defined(__x86_64__) && defined(__clang__)
#pragma clang attribute pop
#endif
