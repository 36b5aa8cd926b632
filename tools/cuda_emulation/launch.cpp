// What the host says to a launch: the checks that CUDA makes, then its blocks.
#include "emulation/launch.h"

#include <c10/util/Exception.h>

#include <mutex>
#include <sstream>
#include <string>

#include "emulation/block.h"

namespace fa::emulation {
namespace {

std::mutex launching;
thread_local int guards = 0;

void check_launch(const char* kernel, const Configuration& c) {
  const auto refuse = [&](bool bad, const std::string& what) {
    TORCH_CHECK(!bad, "emulated CUDA, ", kernel, ": ", what);
  };
  const dim3 &g = c.grid, &b = c.block;
  refuse(uint64_t{g.x} * g.y * g.z == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535,
         "CUDA has no grid of " + text(g) + " blocks");
  refuse(uint64_t{b.x} * b.y * b.z == 0 || uint64_t{b.x} * b.y * b.z > kMaxThreads || b.z > 64,
         "CUDA has no block of " + text(b) + " threads");
  refuse(c.shared_bytes > kStaticShared,
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

void run(const Configuration& configuration, const char* kernel, void (*thread)(const void*),
         const void* context) {
  check_launch(kernel, configuration);
  const std::lock_guard<std::mutex> alone(launching);
  run_blocks(configuration, kernel, thread, context);
}

}  // namespace fa::emulation
