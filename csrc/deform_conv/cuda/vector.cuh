// Vectors of channels: sixteen bytes that lie side by side in memory and go through one access, or
// a single entry where addresses do not allow that.
#pragma once

#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>
#include <type_traits>

#include "common/intrinsics.cuh"

namespace fa::deform::cuda {

// Entries of T in sixteen bytes.
template <typename T>
constexpr int kVectorSize = 16 / sizeof(T);

// kSize entries: kVectorSize<T> of them, or one. Zero where nothing is loaded.
template <typename T, int kSize>
struct Vector {
  static_assert(kSize == kVectorSize<T>);
  using Sum = at::opmath_type<T>;
  uint4 words = {0, 0, 0, 0};

  __device__ static Vector load(const T* from) { return {fa::cuda::load_vector(from)}; }
  // To global memory.
  __device__ void store(T* to) const { fa::cuda::store_vector(to, words); }

  // A 32-bit word holds two entries of half precision: one instruction an entry.
  __device__ void unpack(Sum (&values)[kSize]) const {
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[2 * i] = __uint_as_float(word[i] << 16);
        values[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
      }
    } else if constexpr (std::is_same_v<T, c10::Half>) {
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 pair = fa::cuda::unpack_half(word[i]);
        values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
      }
    } else {
      memcpy(values, &words, sizeof(words));
    }
  }

  __device__ static Vector pack(const Sum (&values)[kSize]) {
    Vector vector;
    if constexpr (std::is_same_v<T, c10::BFloat16>) {
      vector.words = {fa::cuda::pack_bfloat16(values[0], values[1]),
                      fa::cuda::pack_bfloat16(values[2], values[3]),
                      fa::cuda::pack_bfloat16(values[4], values[5]),
                      fa::cuda::pack_bfloat16(values[6], values[7])};
    } else if constexpr (std::is_same_v<T, c10::Half>) {
      vector.words = {
          fa::cuda::pack_half(values[0], values[1]), fa::cuda::pack_half(values[2], values[3]),
          fa::cuda::pack_half(values[4], values[5]), fa::cuda::pack_half(values[6], values[7])};
    } else {
      memcpy(&vector.words, values, sizeof(vector.words));
    }
    return vector;
  }

  // Of entries as they are.
  __device__ static Vector gather(const T (&entries)[kSize]) {
    Vector vector;
    memcpy(&vector.words, entries, sizeof(vector.words));
    return vector;
  }
};

template <typename T>
struct Vector<T, 1> {
  using Sum = at::opmath_type<T>;
  T value = T(0);

  __device__ static Vector load(const T* from) { return {*from}; }
  __device__ void store(T* to) const { *to = value; }
  __device__ void unpack(Sum (&values)[1]) const { values[0] = Sum(value); }
  __device__ static Vector pack(const Sum (&values)[1]) { return {T(values[0])}; }
};

}  // namespace fa::deform::cuda
