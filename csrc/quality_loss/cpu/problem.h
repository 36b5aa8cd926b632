// From the operator's tensors to the plain work list of steps.h.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <vector>

#include "quality_loss/arguments.h"
#include "quality_loss/cpu/steps.h"

namespace fa {
namespace quality {

template <typename S>
const Steps<S>& steps();

// Owns contiguous copies where needed, the chunks and the claims.
template <typename S>
class Problem {
 public:
  explicit Problem(const Inputs& inputs);

  Work<S> work;
  int64_t num_boxes() const { return static_cast<int64_t>(boxes_.size()); }
  int64_t num_chunks() const { return static_cast<int64_t>(chunks_.size()); }
  int64_t num_claims() const { return static_cast<int64_t>(claims_.size()); }
  const Chunk& chunk(int64_t index) const { return chunks_[index]; }
  Level<S>& level(int64_t index) { return levels_[index]; }

  // Runs step(index, chunk, scratch) once for each chunk, on all threads.
  template <typename Step>
  void for_each_chunk(const Step& step) const {
    std::atomic<int64_t> next{0};
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
      std::vector<S> scratch(kScratchArrays * (largest_chunk_ + kScratchPadding));
      for (int64_t i = next++; i < num_chunks(); i = next++) step(i, chunks_[i], scratch.data());
    });
  }

 private:
  void add_levels(const Inputs& inputs);
  void add_boxes(const Inputs& inputs);
  void cut_chunks();
  void find_claims();

  std::vector<at::Tensor> kept_;  // what the pointers point into
  std::vector<Level<S>> levels_;
  std::vector<Box<S>> boxes_;
  std::vector<int64_t> image_boxes_;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> first_chunk_;  // of (image, level): [image * L + level]
  std::vector<int64_t> chunk_rows_;   // a level
  std::vector<Claim> claims_;
  std::vector<int64_t> by_class_;
  int64_t largest_chunk_ = 0;  // cells
};

}  // namespace quality
}  // namespace fa
