// The loss's loops for every processor: 16-byte vectors are SSE2 on x86-64, NEON on ARM.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>

#define FA_ISA portable
#define FA_VECTOR_BYTES 16
#include "quality_loss/cpu/instance.h"
