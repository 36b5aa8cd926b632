// Runs a launch: blocks one after the other, the threads of a block in rounds. In a round each
// thread that can go on does so until it waits or leaves the kernel; between rounds the barriers
// whose threads are all there are released.
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "emulation/device.h"
#include "emulation/fibers.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace fa::emulation {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / warpSize;
constexpr size_t kStaticShared = 48 << 10;  // of a kernel that does not ask for more
constexpr size_t kRedzone = 64;             // behind each shared array
constexpr int kMaxArrays = 32;

enum class State { kReady, kAtBarrier, kAtWarp, kLeft };

struct Thread {
  State state;
  Site site;
  bool vote;
  uint64_t bits;  // brought to a shuffle, then what comes out of it
  int source;
  unsigned mask, ballot;
};

struct SharedArray {
  const char *function, *name;
  size_t bytes;
  char* at;
};

// Plain data: the fibers and the host share it behind the thread sanitizer's back.
Thread threads[kMaxThreads];
int thread_count, current;  // of the block; the one that runs
int barrier_result;
SharedArray arrays[kMaxArrays];
int array_count;
char *shared_memory, *shared_end;
size_t static_bytes, dynamic_bytes;
const char* fault;  // what the running thread did wrong
void (*thread_function)(const void*);
const void* thread_context;

// Tokens of order. Two a barrier, in turns: a thread that is already at the next barrier must not
// lend its accesses to one that is still leaving this one.
char launch_begins, launch_ends, barrier_tokens[2], warp_tokens[kMaxWarps][2];
int barrier_turn, warp_turn[kMaxThreads];

std::mutex launching;
thread_local int guards = 0;

FA_UNSEEN void run_thread() {
  for (;;) {
    acquire_order(&launch_begins);
    thread_function(thread_context);
    release_order(&launch_ends);
    threads[current].state = State::kLeft;
    pause_fiber();
  }
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

std::string text(const dim3& d) {
  std::ostringstream out;
  out << '(' << d.x << ", " << d.y << ", " << d.z << ')';
  return out.str();
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

bool same_place(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0 && std::strcmp(a.what, b.what) == 0;
}

// Lets the lanes go on whose mask is complete. Lanes that have left the kernel are not waited for.
FA_UNSEEN bool release_warp(int first) {
  const int lanes = std::min(warpSize, thread_count - first);
  Thread* const warp = threads + first;
  unsigned alive = 0, released = 0;
  for (int i = 0; i < lanes; ++i) alive |= unsigned(warp[i].state != State::kLeft) << i;
  for (int i = 0; i < lanes; ++i) {
    if (warp[i].state != State::kAtWarp || released >> i & 1) continue;
    const unsigned mask = warp[i].mask & alive;
    unsigned there = 0, votes = 0;
    for (int j = 0; j < lanes; ++j) {
      if ((mask >> j & 1) && warp[j].state == State::kAtWarp && warp[j].mask == warp[i].mask &&
          same_place(warp[j].site, warp[i].site)) {
        there |= 1u << j;
        votes |= unsigned(warp[j].vote) << j;
      }
    }
    if (there != mask) continue;
    uint64_t brought[warpSize];
    for (int j = 0; j < lanes; ++j) brought[j] = warp[j].bits;
    for (int j = 0; j < lanes; ++j) {
      if (!(there >> j & 1)) continue;
      const int source = warp[j].source;
      const bool defined = source >= 0 && source < lanes && (there >> source & 1);
      warp[j].bits = defined ? brought[source] : ~uint64_t{0};
      warp[j].ballot = votes;
      warp[j].state = State::kReady;
    }
    released |= there;
  }
  return released != 0;
}

FA_UNSEEN bool release_barrier(Votes votes) {
  int yes = 0;
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state != State::kAtBarrier || !same_place(threads[t].site, threads[0].site))
      return false;
    yes += threads[t].vote;
  }
  barrier_result = votes == Votes::kAny   ? yes > 0
                   : votes == Votes::kAll ? yes == thread_count
                                          : yes;
  barrier_turn ^= 1;
  for (int t = 0; t < thread_count; ++t) threads[t].state = State::kReady;
  return true;
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

Votes wanted_votes;

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

FA_UNSEEN void begin_block(int block) {
  blockIdx.x = block % gridDim.x;
  blockIdx.y = block / gridDim.x % gridDim.y;
  blockIdx.z = block / gridDim.x / gridDim.y;
  for (int t = 0; t < thread_count; ++t) threads[t].state = State::kReady;
  shared_memory =
      static_cast<char*>(fresh_memory(kStaticShared + dynamic_bytes + (kMaxArrays + 1) * kRedzone));
  forbid(shared_memory, kStaticShared + dynamic_bytes + (kMaxArrays + 1) * kRedzone);
  allow(shared_memory, dynamic_bytes);
  shared_end = shared_memory + (dynamic_bytes + 2 * kRedzone - 1) / kRedzone * kRedzone;
  array_count = 0;
  static_bytes = 0;
}

void run_block(const char* kernel, int block, Order* order) {
  begin_block(block);
  std::vector<int> turns = order->first(thread_count);
  const std::vector<int> fiber_of = order->first(thread_count);
  while (!all_left()) {
    const bool ran = run_round(turns, fiber_of);
    bool released = ran;
    if (fault == nullptr) {
      for (int first = 0; first < thread_count; first += warpSize) released |= release_warp(first);
      released |= release_barrier(wanted_votes);
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
  static Order order;
  gridDim = configuration.grid;
  blockDim = configuration.block;
  thread_count = blockDim.x * blockDim.y * blockDim.z;
  dynamic_bytes = configuration.shared_bytes;
  thread_function = thread;
  thread_context = context;
  release_order(&launch_begins);
  const uint64_t blocks = uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  TORCH_CHECK(blocks < 1 << 24, "emulated CUDA, ", kernel, ": ", blocks, " blocks take too long");
  for (const int block : order.first(int(blocks))) {
    make_fibers(thread_count, run_thread);
    run_block(kernel, block, &order);
  }
  acquire_order(&launch_ends);
}

FA_UNSEEN int barrier(bool vote, Votes votes, Site site) {
  threads[current].vote = vote;
  wanted_votes = votes;
  char* const token = &barrier_tokens[barrier_turn];
  release_order(token);
  wait(State::kAtBarrier, site);
  acquire_order(token);
  return barrier_result;
}

FA_UNSEEN uint64_t shuffle(unsigned mask, uint64_t bits, int source, Site site) {
  Thread& self = threads[current];
  self.mask = mask;
  self.bits = bits;
  self.source = source;
  if (!(mask >> lane() & 1)) stop("a lane calls a warp function without being in its mask");
  wait(State::kAtWarp, site);
  return self.bits;
}

FA_UNSEEN unsigned ballot(unsigned mask, bool vote, Site site) {
  Thread& self = threads[current];
  self.vote = vote;
  shuffle(mask, 0, lane(), site);
  return self.ballot;
}

FA_UNSEEN void warp_barrier(unsigned mask, Site site) {
  const int self = current;
  char* const token = &warp_tokens[self / warpSize][warp_turn[self] ^= 1];
  release_order(token);
  ballot(mask, false, site);
  acquire_order(token);
}

FA_UNSEEN int lane() { return current % warpSize; }

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
