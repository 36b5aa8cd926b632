// deform_conv2d for every processor: 16-byte vectors are SSE2 on x86-64, NEON on ARM.
#define FA_ISA baseline
#define FA_KERNELS kernels_default
#define FA_VECTOR_BYTES 16
#define FA_ROWS 4
#include "deform_conv/cpu/instance.h"
