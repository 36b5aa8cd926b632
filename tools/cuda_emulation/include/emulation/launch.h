// Kernel launches of the emulation. tools/cuda_emulation/translate.py turns
// `kernel<<<grid, block, shared, stream>>>(arguments)` into a call of launch().
#pragma once

#include <cuda_runtime_api.h>

namespace fa::emulation {

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};

inline Configuration configuration(dim3 grid, dim3 block, size_t shared_bytes = 0,
                                   cudaStream_t stream = nullptr) {
  return {grid, block, shared_bytes, stream};
}

cudaStream_t current_stream();

// While one lives in this thread, launches find their device chosen.
class DeviceChosen {
 public:
  DeviceChosen();
  ~DeviceChosen();
  DeviceChosen(const DeviceChosen&) = delete;
  DeviceChosen& operator=(const DeviceChosen&) = delete;
};

// Runs all blocks one after the other, a block's threads as fibers, in an order that
// FA_EMULATION_ORDER chooses: forward, backward, or a number, the seed of a shuffle (default 1).
// Throws c10::Error for what CUDA refuses or leaves undefined: too large a grid, block or shared
// memory; a barrier that not all threads reach; no device guard; another than the current stream.
// `function` tells one instantiation from another, `caller` names its template arguments.
// FA_EMULATION_LOG: a file that gets a line of JSON a launch, whose blocks then do not run.
void run(const Configuration& configuration, const char* kernel, const void* function,
         const char* caller, void (*thread)(const void*), const void* context);

template <typename Kernel, typename Call>
void launch(const Configuration& configuration, const char* kernel, Kernel* function,
            const char* caller, const Call& call) {
  run(
      configuration, kernel, reinterpret_cast<const void*>(function), caller,
      [](const void* context) { (*static_cast<const Call*>(context))(); }, &call);
}

}  // namespace fa::emulation
