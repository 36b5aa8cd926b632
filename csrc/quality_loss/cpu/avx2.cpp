// The loss's loops compiled for AVX2. The target is set after the system headers: none of their
// functions may need it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define FA_ISA avx2
#define FA_VECTOR_BYTES 32
#include "quality_loss/cpu/instance.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
