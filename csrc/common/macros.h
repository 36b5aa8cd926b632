// Attributes of functions that the host and the device share.
#pragma once

// Host versions are always inlined into their caller: each CPU instruction set compiles its own
// copy, and none may be merged with another's at link time.
#if defined(__CUDACC__)
#define FA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FA_HOST_DEVICE static inline __attribute__((always_inline))
#endif

// For members of plain structs that every instruction set's code uses.
#define FA_INLINE inline __attribute__((always_inline))
