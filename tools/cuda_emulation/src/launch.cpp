// What the host says to a launch: the checks that CUDA makes, then its blocks. What it may ask of
// the device.
#include "emulation/launch.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

#include "emulation/block.h"

namespace fa::emulation {
namespace {

std::mutex launching;
thread_local int guards = 0;

std::map<const void*, size_t> allowed;  // dynamic shared memory, where more than 48 KB

void check_launch(const char* kernel, const void* function, const Configuration& c) {
  const auto refuse = [&](bool bad, const std::string& what) {
    TORCH_CHECK(!bad, "emulated CUDA, ", kernel, ": ", what);
  };
  const dim3 &g = c.grid, &b = c.block;
  refuse(uint64_t{g.x} * g.y * g.z == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535,
         "CUDA has no grid of " + text(g) + " blocks");
  refuse(uint64_t{b.x} * b.y * b.z == 0 || uint64_t{b.x} * b.y * b.z > kMaxThreads || b.z > 64,
         "CUDA has no block of " + text(b) + " threads");
  const auto more = allowed.find(function);
  refuse(c.shared_bytes > (more == allowed.end() ? kStaticShared : more->second),
         std::to_string(c.shared_bytes) + " bytes of shared memory are more than a launch gets");
  refuse(c.stream != current_stream(), "launched on another stream than the current one");
  refuse(guards == 0, "launched without a guard that chooses the tensors' device");
}

}  // namespace

std::string text(const dim3& d) {
  std::ostringstream out;
  out << '(' << d.x << ", " << d.y << ", " << d.z << ')';
  return out.str();
}

cudaStream_t current_stream() {
  static char stream;
  return reinterpret_cast<cudaStream_t>(&stream);
}

DeviceChosen::DeviceChosen() { ++guards; }
DeviceChosen::~DeviceChosen() { --guards; }

void allow_shared_memory(const void* kernel, int bytes) {
  const size_t most = at::cuda::getCurrentDeviceProperties()->sharedMemPerBlockOptin;
  TORCH_CHECK(bytes >= 0 && size_t(bytes) <= most, "emulated CUDA: ", bytes,
              " bytes of shared memory, a block has ", most);
  const std::lock_guard<std::mutex> alone(launching);
  allowed[kernel] = std::max(size_t(bytes), kStaticShared);
}

void run(const Configuration& configuration, const char* kernel, const void* function,
         const char* caller, void (*thread)(const void*), const void* context) {
  const std::lock_guard<std::mutex> alone(launching);
  check_launch(kernel, function, configuration);
  const char* log = std::getenv("FA_EMULATION_LOG");
  if (log != nullptr && *log != '\0') {
    const dim3 &g = configuration.grid, &b = configuration.block;
    std::ofstream(log, std::ios::app)
        << "{\"kernel\": \"" << kernel << "\", \"caller\": \"" << caller << "\", \"grid\": [" << g.x
        << ", " << g.y << ", " << g.z << "], \"block\": [" << b.x << ", " << b.y << ", " << b.z
        << "], \"shared\": " << configuration.shared_bytes << "}\n";
    return;
  }
  run_blocks(configuration, kernel, thread, context);
}

}  // namespace fa::emulation

namespace at::cuda {

cudaDeviceProp* getCurrentDeviceProperties() {
  static cudaDeviceProp known[] = {{7, 5, 64 << 10, 64 << 10},
                                   {8, 0, 163 << 10, 164 << 10},
                                   {8, 9, 99 << 10, 100 << 10},
                                   {9, 0, 227 << 10, 228 << 10}};
  const char* wanted = std::getenv("FA_EMULATION_DEVICE");
  const std::string name = wanted == nullptr || *wanted == '\0' ? "9.0" : wanted;
  for (cudaDeviceProp& properties : known) {
    if (name == std::to_string(properties.major) + "." + std::to_string(properties.minor))
      return &properties;
  }
  TORCH_CHECK(false, "FA_EMULATION_DEVICE=", name, " is not one of 7.5, 8.0, 8.9, 9.0");
}

}  // namespace at::cuda
