#pragma once

#include <c10/core/Device.h>

#include "emulation/launch.h"

namespace c10::cuda {

// Launches fail where no guard has chosen the tensors' device.
struct CUDAGuard : fa::emulation::DeviceChosen {
  explicit CUDAGuard(c10::Device) {}
};

}  // namespace c10::cuda
