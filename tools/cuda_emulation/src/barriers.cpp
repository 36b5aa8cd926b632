// Barriers and warp functions: what a thread does that comes to one, and when it may go on.
#include <algorithm>
#include <cstring>

#include "emulation/block.h"

namespace fa::emulation {
namespace {

Votes wanted_votes;
int barrier_result;

// Tokens of order. Two a barrier, in turns: a thread that is already at the next barrier must not
// lend its accesses to one that is still leaving this one.
char barrier_tokens[2], warp_tokens[kMaxWarps][2];
int barrier_turn, warp_turn[kMaxThreads];

bool same_place(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0 && std::strcmp(a.what, b.what) == 0;
}

}  // namespace

// Lanes that have left the kernel are not waited for.
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

FA_UNSEEN bool release_barrier() {
  int yes = 0;
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state != State::kAtBarrier || !same_place(threads[t].site, threads[0].site))
      return false;
    yes += threads[t].vote;
  }
  barrier_result = wanted_votes == Votes::kAny   ? yes > 0
                   : wanted_votes == Votes::kAll ? yes == thread_count
                                                 : yes;
  barrier_turn ^= 1;
  for (int t = 0; t < thread_count; ++t) threads[t].state = State::kReady;
  return true;
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

}  // namespace fa::emulation
