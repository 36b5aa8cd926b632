// What the loops of the quality-weighted loss read and write: plain pointers, so that the objects
// for the different instruction sets instantiate nothing of the standard library.
//
// The locations of every image and level are cut into chunks (bands of rows). A claim is the part
// of a box's rectangle that lies in one chunk. Chunks run in parallel, each writes only what is its
// own, and all sums over claims and chunks run in a fixed order: the same bits for any number of
// threads.
#pragma once

#include <cstdint>

#include "quality_loss/math.h"

namespace fa {
namespace quality {

template <typename S>
struct Level {
  int64_t height, width;
  int64_t first;  // index of its first location among an image's A locations
  S stride;
  const S* cls;  // (N, K, H, W) logits
  const S* box;  // (N, 4, H, W) pixels
  const S* obj;  // (N, 1, H, W) logits
  S* grad_cls;
  S* grad_box;
  S* grad_obj;
};

// Over the locations inside one box; what backward needs besides the inputs.
struct BoxStatistics {
  double bag_weight;                   // sum of w
  double bag_confidence;               // sum of w P
  double gaussian;                     // sum of N
  double prior_root;                   // sum of sqrt(max(v N, 1e-12)), FeatureAlign's prior only
  double count;                        // locations
  double lowest_joint, highest_joint;  // q R
  double lowest_iou, highest_iou;      // the location's largest IoU with any box
};
constexpr int kStatistics = sizeof(BoxStatistics) / sizeof(double);

template <typename S>
struct Box {
  int64_t image, cls;
  S x1, y1, x2, y2;  // pixels
};

// Gradient factors of one box, from the upstream gradients.
struct BoxFactors {
  double bag;    // d losses / d b_g
  double prior;  // d losses / d (sum of sqrt(v N), or of N) of the box's image
};

struct Chunk {
  int64_t image, level, first_row, last_row;  // rows [first, last)
  int64_t first_claim, last_claim;            // claims [first, last), ordered by box
};

struct Claim {
  int64_t box, chunk;
  int64_t x0, x1, y0, y1;  // cells [x0, x1) x [y0, y1) of the level, not empty
};

// d losses / d mu and sigma before the factors of the Gaussian: sums of dN N d and dN N d^2.
struct ClaimGradient {
  double dx, dy, dx2, dy2;
};

template <typename S>
struct Work {
  int64_t images, classes, locations;  // N, K, A
  const Level<S>* levels;
  const Box<S>* boxes;         // all images, in order
  const int64_t* image_boxes;  // (N + 1): image n has boxes [n, n + 1)
  const Chunk* chunks;
  const Claim* claims;
  const int64_t* by_class;  // a chunk's claims, stably sorted by class: indices into claims
  const S* mu;              // (L or 1, K, 2)
  const S* sigma;
  int64_t level_step;  // of mu and sigma: 2 K, or 0 where all levels share a row
  S* max_iou;          // (N, A)
  BoxStatistics* claim_statistics;
  const BoxStatistics* statistics;  // a box
  const BoxFactors* factors;        // a box
  double negative_factor;           // d loss_neg / d neg
  double negative_scale;            // d losses / d loss_neg
  ClaimGradient* claim_gradients;
  QualityOptions options;
};

// Working memory of one thread, in values of the scalar type, for chunks of up to `cells`.
constexpr int64_t kScratchArrays = 18;
constexpr int64_t kScratchPadding = 32;

// The steps over one chunk; scratch holds kScratchArrays * (cells + kScratchPadding) values.
template <typename S>
struct Steps {
  // max_iou on locations inside any box, then claim_statistics without prior_root.
  void (*statistics)(const Work<S>&, const Chunk&, S* scratch);
  // claim_statistics.prior_root; needs `statistics`.
  void (*prior_roots)(const Work<S>&, const Chunk&, S* scratch);
  // The chunk's part of neg.
  double (*negative)(const Work<S>&, const Chunk&, S* scratch);
  // The same, and the gradients of loss_neg: by cls into grad_cls, by sigmoid(obj) into grad_obj.
  double (*negative_with_gradient)(const Work<S>&, const Chunk&, S* scratch);
  // All gradients of the chunk's locations, and claim_gradients; needs `negative_with_gradient`.
  void (*gradients)(const Work<S>&, const Chunk&, S* scratch);
};

}  // namespace quality
}  // namespace fa
