#include "emulation/fibers.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <cstdint>
#include <deque>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace fa::emulation {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 64 << 10;  // below each stack: an overflow ends the process

#if defined(__x86_64__)
// swapcontext does the same with two system calls, forty times slower.
using Context = void*;
extern "C" void fa_switch_context(Context* from, Context to);
__asm__(
    ".text\n"
    ".type fa_switch_context, @function\n"
    "fa_switch_context:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size fa_switch_context, .-fa_switch_context\n");

Context begin_at(char* stack, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // entry() finds the stack as after a call, from nowhere
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
}

FA_UNSEEN void switch_context(Context* from, Context* to) { fa_switch_context(from, *to); }
#else
using Context = ucontext_t;

Context begin_at(char* stack, void (*entry)()) {
  Context context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
  return context;
}

FA_UNSEEN void switch_context(Context* from, Context* to) { swapcontext(from, to); }
#endif

struct Fiber {
  char* stack;
  Context context;
  void (*entry)();
  void* sanitizer;  // the address sanitizer's stack of fakes, or the thread sanitizer's thread
};

std::deque<Fiber> fibers;  // which stay where they are when others come
Fiber* running;
Context host;
[[maybe_unused]] const void* host_stack;  // what the sanitizers know of the host
[[maybe_unused]] size_t host_stack_bytes;
[[maybe_unused]] void* host_sanitizer;

FA_UNSEEN void begin_fiber() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
  running->entry();
}

}  // namespace

void make_fibers(int count, void (*entry)()) {
  while (int(fibers.size()) < count) {
    void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(memory != MAP_FAILED && mprotect(memory, kGuardBytes, PROT_NONE) == 0,
                "emulated CUDA: no memory for the threads of a block");
    char* stack = static_cast<char*>(memory) + kGuardBytes;
    fibers.push_back({stack, begin_at(stack, begin_fiber), entry, nullptr});
#if defined(__SANITIZE_THREAD__)
    fibers.back().sanitizer = __tsan_create_fiber(0);
#endif
  }
}

FA_UNSEEN void resume_fiber(int fiber) {
  running = &fibers[fiber];
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&host_sanitizer, running->stack, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  host_sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(running->sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&host, &running->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(host_sanitizer, nullptr, nullptr);
#endif
}

FA_UNSEEN void pause_fiber() {
  Fiber* const self = running;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&self->sanitizer, host_stack, host_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(host_sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&self->context, &host);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->sanitizer, &host_stack, &host_stack_bytes);
#endif
}

FA_UNSEEN void drop_fibers() {
  for (const Fiber& fiber : fibers) {
    allow(fiber.stack, kStackBytes);
#if defined(__SANITIZE_THREAD__)
    // A fiber that stops within a kernel does not reach its end: what it did comes before what the
    // host does next, which may use the same stack.
    void* const self = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber.sanitizer, __tsan_switch_to_fiber_no_sync);
    __tsan_switch_to_fiber(self, 0);
    __tsan_destroy_fiber(fiber.sanitizer);
#endif
    munmap(fiber.stack - kGuardBytes, kGuardBytes + kStackBytes);
  }
  fibers.clear();
}

void release_order([[maybe_unused]] void* token) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(token);
#endif
}

void acquire_order([[maybe_unused]] void* token) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(token);
#endif
}

FA_UNSEEN void* fresh_memory(unsigned long bytes) {
  static uint64_t* memory = nullptr;
#if defined(__SANITIZE_THREAD__)
  // So that it forgets who used the same addresses, and does not take this for a use.
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
  free(memory);
  memory = static_cast<uint64_t*>(malloc(bytes));
  TORCH_CHECK(memory != nullptr, "emulated CUDA: no memory for a block's shared arrays");
  for (size_t i = 0; i < bytes / sizeof *memory; ++i) memory[i] = ~uint64_t{0};
#if defined(__SANITIZE_THREAD__)
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
  return memory;
}

void forbid([[maybe_unused]] const void* begin, [[maybe_unused]] unsigned long bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(begin, bytes);
#endif
}

void allow([[maybe_unused]] const void* begin, [[maybe_unused]] unsigned long bytes) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
#endif
}

}  // namespace fa::emulation
