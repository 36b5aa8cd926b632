#pragma once

#include "emulation/device.h"

template <typename T>
inline T gpuAtomicAdd(T* to, T value) {
  return fa::emulation::update(to, [=](T old) { return T(old + value); });
}

template <typename T>
inline void gpuAtomicAddNoReturn(T* to, T value) {
  gpuAtomicAdd(to, value);
}
