// The block that runs, as the emulation's own sources share it: its threads and what they wait for.
#pragma once

#include <string>

#include "emulation/device.h"
#include "emulation/fibers.h"

namespace fa::emulation {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / warpSize;
constexpr size_t kStaticShared = 48 << 10;  // of a kernel that does not ask for more

enum class State { kReady, kAtBarrier, kAtWarp, kLeft };

struct Thread {
  State state;
  Site site;
  bool vote;
  uint64_t bits;  // brought to a shuffle, then what comes out of it
  int source;
  unsigned mask, ballot;
};

// Plain data: the fibers and the host share it behind the thread sanitizer's back.
extern Thread threads[kMaxThreads];
extern int thread_count, current;  // of the block; the one that runs

// All blocks of a launch, one after the other.
void run_blocks(const Configuration& configuration, const char* kernel, void (*thread)(const void*),
                const void* context);

// The running thread waits until it is made ready.
void wait(State state, Site site);

// Let the threads go on whose barrier is complete, or whose mask, in the warp of thread `first`;
// whether there were any.
bool release_barrier();
bool release_warp(int first);

// Fresh shared memory for a block, with as many dynamic bytes as the launch says.
void renew_shared_memory(size_t dynamic);

std::string text(const dim3& d);

}  // namespace fa::emulation
