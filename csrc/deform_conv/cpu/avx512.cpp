// deform_conv2d compiled for AVX-512. The target is set after the system headers: none of their
// functions may need it.
#if defined(__x86_64__)
#include <cstdint>

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

#define FA_ISA avx512
#define FA_KERNELS kernels_avx512
#define FA_VECTOR_BYTES 64
#define FA_ROWS 12
#include "deform_conv/cpu/instance.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
