// The loss's loops compiled for AVX-512. The target is set after the system headers: none of their
// functions may need it.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FA_ISA avx512
#define FA_VECTOR_BYTES 64
#include "quality_loss/cpu/instance.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
