// Fibers: functions with stacks of their own that take turns in one thread of the host, with what
// the sanitizers must be told of them.
#pragma once

namespace fa::emulation {

// Told to the thread sanitizer, which otherwise takes what we do between fibers for theirs.
#define FA_UNSEEN __attribute__((no_sanitize("thread")))

// Makes sure of fibers [0, count), which begin with entry(); it must not return.
void make_fibers(int count, void (*entry)());

// Runs a fiber until it pauses. From the host only.
void resume_fiber(int fiber);

// Back to the host. From the running fiber only.
void pause_fiber();

// Throws all fibers away, wherever they stand, without unwinding them.
void drop_fibers();

// Order between accesses, for the thread sanitizer: what comes before a release of `token` comes
// before what follows a later acquire.
void release_order(void* token);
void acquire_order(void* token);

// Memory that no fiber has touched; reading it gives ones. Takes back what it gave before.
void* fresh_memory(unsigned long bytes);

// For the address sanitizer: whether accesses to this memory are errors.
void forbid(const void* begin, unsigned long bytes);
void allow(const void* begin, unsigned long bytes);

}  // namespace fa::emulation
