// A block's shared arrays, each with forbidden memory behind it.
#include <cstring>

#include "emulation/block.h"

namespace fa::emulation {
namespace {

constexpr size_t kRedzone = 64;  // behind each shared array
constexpr int kMaxArrays = 32;

struct SharedArray {
  const char *function, *name;
  size_t bytes;
  char* at;
};

SharedArray arrays[kMaxArrays];
int array_count;
char *shared_memory, *shared_end;
size_t static_bytes, dynamic_bytes;

}  // namespace

FA_UNSEEN void renew_shared_memory(size_t dynamic) {
  dynamic_bytes = dynamic;
  shared_memory =
      static_cast<char*>(fresh_memory(kStaticShared + dynamic_bytes + (kMaxArrays + 1) * kRedzone));
  forbid(shared_memory, kStaticShared + dynamic_bytes + (kMaxArrays + 1) * kRedzone);
  allow(shared_memory, dynamic_bytes);
  shared_end = shared_memory + (dynamic_bytes + 2 * kRedzone - 1) / kRedzone * kRedzone;
  array_count = 0;
  static_bytes = 0;
}

FA_UNSEEN void* shared_array(const char* function, const char* name, size_t bytes,
                             size_t alignment) {
  for (int i = 0; i < array_count; ++i) {
    const SharedArray& array = arrays[i];
    if (array.bytes == bytes && std::strcmp(array.name, name) == 0 &&
        std::strcmp(array.function, function) == 0)
      return array.at;
  }
  if (array_count == kMaxArrays) stop("too many shared arrays for the emulation");
  static_bytes = (static_bytes + alignment - 1) / alignment * alignment + bytes;
  if (static_bytes > kStaticShared) stop("the shared arrays take more than 48 KB");
  char* const at = shared_end;
  shared_end += (bytes + 2 * kRedzone - 1) / kRedzone * kRedzone;
  allow(at, bytes);
  arrays[array_count++] = {function, name, bytes, at};
  return at;
}

FA_UNSEEN void* dynamic_shared_array() { return shared_memory; }

}  // namespace fa::emulation
