// What the kernels of the decoding share.
#pragma once

#include "decode/cuda/launch.h"
#include "decode/math.h"

namespace fa {
namespace decode {

constexpr unsigned kWarp = 0xffffffff;

// A place behind *counter for each lane that wants one: one atomic addition a warp, all of whose
// lanes call this.
__device__ __forceinline__ int reserve(bool wanted, int* counter) {
  const unsigned votes = __ballot_sync(kWarp, wanted);
  if (votes == 0) return 0;
  const int lane = threadIdx.x % 32, leader = __ffs(votes) - 1;
  int first = 0;
  if (lane == leader) first = atomicAdd(counter, __popc(votes));
  return __shfl_sync(kWarp, first, leader) + __popc(votes & ((1u << lane) - 1));
}

}  // namespace decode
}  // namespace fa
