// The blocks of a launch, one after the other, and the threads of a block, in rounds. In a round
// each thread that can go on does so until it waits or leaves the kernel; between rounds the
// barriers whose threads are all there are released.
#include "emulation/block.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace fa::emulation {

Thread threads[kMaxThreads];
int thread_count, current;

namespace {

const char* fault;  // what the running thread did wrong
void (*thread_function)(const void*);
const void* thread_context;

// Tokens of order.
char launch_begins, launch_ends;

FA_UNSEEN void run_thread() {
  for (;;) {
    acquire_order(&launch_begins);
    thread_function(thread_context);
    release_order(&launch_ends);
    threads[current].state = State::kLeft;
    pause_fiber();
  }
}

std::string block_text() { return text({blockIdx.x, blockIdx.y, blockIdx.z}); }

// What the threads of a block that cannot go on are doing, a line each kind.
std::string standstill() {
  std::vector<std::pair<std::string, std::vector<int>>> kinds;
  for (int t = 0; t < thread_count; ++t) {
    std::ostringstream what;
    const Thread& thread = threads[t];
    if (thread.state == State::kLeft) {
      what << "left the kernel";
    } else {
      what << "wait at " << thread.site.what << " in " << thread.site.file << ":"
           << thread.site.line;
      if (thread.state == State::kAtWarp) what << " for the lanes 0x" << std::hex << thread.mask;
    }
    const auto found = std::find_if(kinds.begin(), kinds.end(),
                                    [&](const auto& kind) { return kind.first == what.str(); });
    if (found == kinds.end()) {
      kinds.push_back({what.str(), {t}});
    } else {
      found->second.push_back(t);
    }
  }
  std::ostringstream out;
  for (const auto& [what, who] : kinds) {
    out << "\n  " << who.size() << " threads (the first is " << who[0] << ") " << what;
  }
  return out.str();
}

// The order of blocks, and of threads in every round.
struct Order {
  enum Kind { kForward, kBackward, kShuffled } kind = kShuffled;
  std::mt19937 random{1};

  Order() {
    const char* wanted = std::getenv("FA_EMULATION_ORDER");
    if (wanted == nullptr || *wanted == '\0') return;
    if (std::strcmp(wanted, "forward") == 0) {
      kind = kForward;
    } else if (std::strcmp(wanted, "backward") == 0) {
      kind = kBackward;
    } else {
      char* end = nullptr;
      random.seed(std::strtoul(wanted, &end, 10));
      TORCH_CHECK(*end == '\0', "FA_EMULATION_ORDER=", wanted,
                  " is not one of forward, backward, a number");
    }
  }

  void next(std::vector<int>* indices) {
    if (kind == kShuffled) std::shuffle(indices->begin(), indices->end(), random);
  }

  std::vector<int> first(int count) {
    std::vector<int> indices(count);
    std::iota(indices.begin(), indices.end(), 0);
    if (kind == kBackward) std::reverse(indices.begin(), indices.end());
    next(&indices);
    return indices;
  }
};

// More fibers than threads: the thread sanitizer takes what one fiber does to be in order, and a
// thread of the next block is another one.
constexpr int kSpareFibers = 64;

std::vector<int> choose_fibers() {
  static std::mt19937 random{1};
  std::vector<int> fibers(thread_count + kSpareFibers);
  std::iota(fibers.begin(), fibers.end(), 0);
  std::shuffle(fibers.begin(), fibers.end(), random);
  return fibers;
}

// One round; whether any thread ran.
FA_UNSEEN bool run_round(const std::vector<int>& order, const std::vector<int>& fiber_of) {
  bool ran = false;
  const int* const who = order.data();
  const int* const fiber = fiber_of.data();
  for (int i = 0; i < thread_count; ++i) {
    const int t = who[i];
    if (threads[t].state != State::kReady) continue;
    current = t;
    threadIdx.x = t % blockDim.x;
    threadIdx.y = t / blockDim.x % blockDim.y;
    threadIdx.z = t / blockDim.x / blockDim.y;
    resume_fiber(fiber[t]);
    if (fault != nullptr) return true;
    ran = true;
  }
  return ran;
}

FA_UNSEEN bool all_left() {
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state != State::kLeft) return false;
  }
  return true;
}

FA_UNSEEN void begin_block(int block, size_t shared_bytes) {
  blockIdx.x = block % gridDim.x;
  blockIdx.y = block / gridDim.x % gridDim.y;
  blockIdx.z = block / gridDim.x / gridDim.y;
  for (int t = 0; t < thread_count; ++t) threads[t].state = State::kReady;
  renew_shared_memory(shared_bytes);
}

void run_block(const char* kernel, int block, size_t shared_bytes, Order* order) {
  begin_block(block, shared_bytes);
  std::vector<int> turns = order->first(thread_count);
  const std::vector<int> fiber_of = choose_fibers();
  while (!all_left()) {
    const bool ran = run_round(turns, fiber_of);
    bool released = ran;
    if (fault == nullptr) {
      for (int first = 0; first < thread_count; first += warpSize) released |= release_warp(first);
      released |= release_barrier();
    }
    if (fault != nullptr || !released) {
      const std::string problem =
          fault != nullptr ? fault : "threads wait for others that never come:" + standstill();
      fault = nullptr;
      drop_fibers();
      TORCH_CHECK(false, "emulated CUDA, ", kernel, ", block ", block_text(), ": ", problem);
    }
    order->next(&turns);
  }
}

}  // namespace

void run_blocks(const Configuration& configuration, const char* kernel, void (*thread)(const void*),
                const void* context) {
  static Order order;
  gridDim = configuration.grid;
  blockDim = configuration.block;
  thread_count = blockDim.x * blockDim.y * blockDim.z;
  thread_function = thread;
  thread_context = context;
  release_order(&launch_begins);
  const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  TORCH_CHECK(blocks < 1 << 24, "emulated CUDA, ", kernel, ": ", blocks, " blocks take too long");
  for (const int block : order.first(int(blocks))) {
    make_fibers(thread_count + kSpareFibers, run_thread);
    run_block(kernel, block, configuration.shared_bytes, &order);
  }
  acquire_order(&launch_ends);
}

FA_UNSEEN void wait(State state, Site site) {
  threads[current].state = state;
  threads[current].site = site;
  pause_fiber();
}

[[noreturn]] FA_UNSEEN void stop(const char* message) {
  fault = message;
  pause_fiber();
  __builtin_unreachable();
}

}  // namespace fa::emulation
