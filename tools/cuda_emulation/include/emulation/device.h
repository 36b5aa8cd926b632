// CUDA's device side for g++: keywords, built-in variables, barriers, warp functions, atomics.
// Comes first in every translated .cu file, as nvcc puts cuda_runtime.h there.
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>  // NOLINT: the overloads for float in the global namespace, as in device code

#include <cstring>
#include <type_traits>

#include "emulation/launch.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace fa::emulation {

// Where a thread waits, for messages and to tell one barrier from another.
struct Site {
  const char* what;
  const char* file;
  int line;
};

enum class Votes { kAny, kAll, kCount };

// The block's barrier; returns what the threads' votes come to.
int barrier(bool vote, Votes votes, Site site);

// Waits for the lanes of `mask`; returns the bits that lane `source` brought. Undefined, and here
// all ones, where that lane is not in the mask or has left the kernel.
uint64_t shuffle(unsigned mask, uint64_t bits, int source, Site site);

// Waits for the lanes of `mask`; returns which of them voted yes.
unsigned ballot(unsigned mask, bool vote, Site site);

// As ballot, and orders memory accesses among the lanes, as only __syncwarp does.
void warp_barrier(unsigned mask, Site site);

int lane();

// The running thread has done wrong: the launch ends with this error.
[[noreturn]] void stop(const char* message);

// The block's array for one __shared__ declaration, filled with ones: NaN, or -1.
void* shared_array(const char* function, const char* name, size_t bytes, size_t alignment);

// The array of an `extern __shared__` declaration: as large as the launch says.
void* dynamic_shared_array();

// `T& name = shared<T>(...)` stands for `__shared__ T name;`
template <typename T>
T& shared(const char* function, const char* name) {
  static_assert(std::is_trivially_default_constructible_v<T>, "as nvcc: no constructor to run");
  return *static_cast<T*>(shared_array(function, name, sizeof(T), alignof(T)));
}

template <typename To, typename From>
To bits_as(const From& from) {
  static_assert(std::is_trivially_copyable_v<From> && sizeof(From) <= 8 && sizeof(To) <= 8);
  To to = {};
  memcpy(&to, &from, sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
  return to;
}

// Atomically *to = change(*to), no order of other accesses; returns the old value.
template <typename T, typename Change>
T update(T* to, const Change& change) {
  T old, changed;
  __atomic_load(to, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (
      !__atomic_compare_exchange(to, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace fa::emulation

// Where the call stands.
#define FA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FA_SITE) {
  fa::emulation::barrier(false, fa::emulation::Votes::kAny, {"__syncthreads", file, line});
}
inline int __syncthreads_or(int vote, FA_SITE) {
  return fa::emulation::barrier(vote, fa::emulation::Votes::kAny, {"__syncthreads_or", file, line});
}
inline int __syncthreads_and(int vote, FA_SITE) {
  return fa::emulation::barrier(vote, fa::emulation::Votes::kAll,
                                {"__syncthreads_and", file, line});
}
inline int __syncthreads_count(int vote, FA_SITE) {
  return fa::emulation::barrier(vote, fa::emulation::Votes::kCount,
                                {"__syncthreads_count", file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffff, FA_SITE) {
  fa::emulation::warp_barrier(mask, {"__syncwarp", file, line});
}

inline unsigned __ballot_sync(unsigned mask, int vote, FA_SITE) {
  return fa::emulation::ballot(mask, vote, {"__ballot_sync", file, line});
}
inline int __any_sync(unsigned mask, int vote, FA_SITE) {
  return fa::emulation::ballot(mask, vote, {"__any_sync", file, line}) != 0;
}
inline int __all_sync(unsigned mask, int vote, FA_SITE) {
  return fa::emulation::ballot(mask, !vote, {"__all_sync", file, line}) == 0;
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, FA_SITE) {
  const int first = fa::emulation::lane() & ~(width - 1);
  return fa::emulation::bits_as<T>(
      fa::emulation::shuffle(mask, fa::emulation::bits_as<uint64_t>(value),
                             first + (source & (width - 1)), {"__shfl_sync", file, line}));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, FA_SITE) {
  const int lane = fa::emulation::lane(), first = lane & ~(width - 1);
  const int source = lane - int(delta) < first ? lane : lane - int(delta);
  return fa::emulation::bits_as<T>(fa::emulation::shuffle(
      mask, fa::emulation::bits_as<uint64_t>(value), source, {"__shfl_up_sync", file, line}));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, FA_SITE) {
  const int lane = fa::emulation::lane(), last = lane | (width - 1);
  const int source = lane + int(delta) > last ? lane : lane + int(delta);
  return fa::emulation::bits_as<T>(fa::emulation::shuffle(
      mask, fa::emulation::bits_as<uint64_t>(value), source, {"__shfl_down_sync", file, line}));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, FA_SITE) {
  const int lane = fa::emulation::lane(), last = lane | (width - 1);
  const int source = (lane ^ bits) > last ? lane : lane ^ bits;
  return fa::emulation::bits_as<T>(fa::emulation::shuffle(
      mask, fa::emulation::bits_as<uint64_t>(value), source, {"__shfl_xor_sync", file, line}));
}
#undef FA_SITE

template <typename T>
T atomicAdd(T* to, std::common_type_t<T> value) {
  return fa::emulation::update(to, [=](T old) { return T(old + value); });
}
template <typename T>
T atomicMax(T* to, std::common_type_t<T> value) {
  return fa::emulation::update(to, [=](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicMin(T* to, std::common_type_t<T> value) {
  return fa::emulation::update(to, [=](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicExch(T* to, std::common_type_t<T> value) {
  return fa::emulation::update(to, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* to, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return fa::emulation::update(to, [=](T old) { return old == expected ? value : old; });
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }

// Not fused with the sum that the product enters.
template <typename T>
T product_alone(T a, T b) {
  volatile T product = a * b;
  return product;
}
inline float __fmul_rn(float a, float b) { return product_alone(a, b); }
inline double __dmul_rn(double a, double b) { return product_alone(a, b); }

inline float __fdividef(float a, float b) { return b > 0x1p126f ? a * 0.f : a / b; }

#define FA_VECTOR(type, name, bytes)                                    \
  struct alignas(bytes / 2) name##2 { type x, y; };                     \
  struct alignas(bytes < 16 ? bytes : 16) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }      \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
FA_VECTOR(float, float, 16)
FA_VECTOR(double, double, 32)
FA_VECTOR(int, int, 16)
FA_VECTOR(unsigned, uint, 16)
#undef FA_VECTOR

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __uint_as_float(unsigned bits) { return fa::emulation::bits_as<float>(bits); }

// For __CUDA_ARCH__ in csrc/*/math.h: the device's arithmetic is chosen where it differs.
#define FA_EMULATED_ARCH 900
