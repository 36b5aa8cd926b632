// A tile in shared memory, through which rows.cu turns vectors of positions into vectors of
// channels and back.
#pragma once

#include "deform_conv/cuda/sample.cuh"
#include "deform_conv/cuda/vector.cuh"

namespace fa::deform::cuda {

constexpr int kVectors = 8;  // a line of a tile, 128 bytes
constexpr int kLinesAtOnce = kThreads / kVectors;

// A square of entries, written by lines and read by columns. Vectors are permuted within a line so
// that the lanes of a warp meet in no bank either way.
template <typename T>
struct alignas(16) Tile {
  static constexpr int kSize = kVectorSize<T>, kSide = kVectors * kSize;
  static constexpr int kSteps = (kSide + kLinesAtOnce - 1) / kLinesAtOnce;
  // Of float64 there are fewer lines than a block has threads for.
  static constexpr bool kAll = kSide % kLinesAtOnce == 0;
  T entries[kSide][kSide];

  __device__ void set(int line, int vector, const Vector<T, kSize>& values) {
    T* const to = &entries[line][(vector ^ line / kSize % kVectors) * kSize];
    fa::cuda::store_shared_vector(to, values.words);
  }
  // Entries [vector * kSize, ... + kSize) of a column.
  __device__ Vector<T, kSize> column(int index, int vector) const {
    T of_column[kSize];
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      of_column[j] = entries[vector * kSize + j][(index / kSize ^ vector) * kSize + index % kSize];
    }
    return Vector<T, kSize>::gather(of_column);
  }
};

template <typename T>
__device__ inline bool is_line(int line) {
  return Tile<T>::kAll || line < Tile<T>::kSide;
}

}  // namespace fa::deform::cuda
