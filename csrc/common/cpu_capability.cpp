#include "common/cpu_capability.h"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <string>

namespace fa {
namespace {

CpuCapability best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return CpuCapability::kAvx512;
  }
  if (avx2) return CpuCapability::kAvx2;
#endif
  return CpuCapability::kDefault;
}

CpuCapability choose() {
  const CpuCapability available = best();
  const char* wanted = std::getenv("FA_CPU_CAPABILITY");
  if (wanted == nullptr || *wanted == '\0') return available;
  for (const CpuCapability level :
       {CpuCapability::kDefault, CpuCapability::kAvx2, CpuCapability::kAvx512}) {
    if (std::string(wanted) != capability_name(level)) continue;
    TORCH_CHECK(level <= available, "FA_CPU_CAPABILITY=", wanted,
                ", but this processor goes up to ", capability_name(available));
    return level;
  }
  TORCH_CHECK(false, "FA_CPU_CAPABILITY=", wanted, " is not one of default, avx2, avx512");
}

}  // namespace

CpuCapability cpu_capability() {
  static const CpuCapability chosen = choose();
  return chosen;
}

const char* capability_name(CpuCapability capability) {
  switch (capability) {
    case CpuCapability::kAvx512:
      return "avx512";
    case CpuCapability::kAvx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace fa
