// The Python module that loads the kernels. The schemas are in fa_detectron/ops/schemas.py; kernels
// register themselves beside their code, one per device.
#include <Python.h>
#include <torch/library.h>

#include <string>

#include "common/cpu_capability.h"

// Read from the file by fa_detectron.ops.native before the module is loaded: an extension built for
// another torch or other schemas must be recognised without running any of its code.
extern "C" __attribute__((visibility("default"), used)) const char fa_build_info[] =
    "FA_BUILD_INFO{torch=" FA_BUILD_TORCH ";cuda=" FA_BUILD_CUDA ";archs=" FA_BUILD_ARCHS
    ";schemas=" FA_BUILD_SCHEMAS "}";

TORCH_LIBRARY_FRAGMENT(fa_detectron, m) {
  // The instruction set that the CPU kernels run with.
  m.def("cpu_capability() -> str",
        []() { return std::string(fa::capability_name(fa::cpu_capability())); });
}

// `import fa_detectron._C` only has to load this library: the operators are in
// torch.ops.fa_detectron.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
