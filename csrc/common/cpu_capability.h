// Which instruction set the CPU kernels use: chosen once at run time, so that one binary fits every
// x86-64.
#pragma once

namespace fa {

enum class CpuCapability { kDefault = 0, kAvx2 = 1, kAvx512 = 2 };

// The best that this processor has, or what FA_CPU_CAPABILITY=default|avx2|avx512 asks for. Throws
// where the variable has another value or asks for what the processor lacks.
CpuCapability cpu_capability();

const char* capability_name(CpuCapability capability);

}  // namespace fa
