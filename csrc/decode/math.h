// Inference for one candidate, written once for the CPU loops and the CUDA kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/macros.h"

namespace fa {

// Corners in pixels.
template <typename S>
struct Corners {
  S x1, y1, x2, y2;
};

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double multiply_rounded(double a, double b) { return __dmul_rn(a, b); }
#endif

// a * b, rounded: not fused with the sum that it enters.
template <typename T>
FA_HOST_DEVICE T rounded_product(T a, T b) {
#if defined(__CUDA_ARCH__)
  return multiply_rounded(a, b);
#else
  T product = a * b;
#if defined(__GNUC__) && !defined(__clang__)
  __asm__("" : "+m"(product));  // clang fuses within one expression only
#endif
  return product;
#endif
}

// The largest S that is not above x: an S is above it just where it is above x.
template <typename S>
S rounded_down(double x) {
  const S nearest = static_cast<S>(x);
  return double(nearest) > x ? std::nextafter(nearest, -std::numeric_limits<S>::infinity())
                             : nearest;
}

// As torchvision's nms decides it, without fused products; the threshold is rounded_down, which
// spares the comparison in double.
template <typename S>
FA_HOST_DEVICE bool suppresses(const Corners<S>& kept, const Corners<S>& box, S threshold) {
  const S x1 = kept.x1 < box.x1 ? box.x1 : kept.x1, y1 = kept.y1 < box.y1 ? box.y1 : kept.y1;
  const S x2 = kept.x2 < box.x2 ? kept.x2 : box.x2, y2 = kept.y2 < box.y2 ? kept.y2 : box.y2;
  const S width = S(0) < x2 - x1 ? x2 - x1 : S(0), height = S(0) < y2 - y1 ? y2 - y1 : S(0);
  const S inter = rounded_product(width, height);
  const S kept_area = rounded_product(kept.x2 - kept.x1, kept.y2 - kept.y1);
  const S area = rounded_product(box.x2 - box.x1, box.y2 - box.y1);
  return inter / (kept_area + area - inter) > threshold;
}

// The probability as the exact sigmoid rounds: the same on every device and instruction set.
template <typename S>
FA_HOST_DEVICE S exact_sigmoid(S logit) {
  using std::exp;
  return S(1.0 / (1.0 + exp(-double(logit))));
}

constexpr float kLogitSlack = 2e-5f;

// The class logit below which no class of a location reaches a score (> 0): too low by a little, so
// that functions good to 5e-6 lose no candidate. Infinite where none can reach it. h: the
// location's objectness; least: the score times 1 - kLogitSlack; log_least: log(least) -
// kLogitSlack.
template <typename Log>
FA_HOST_DEVICE float lowest_logit(float h, float least, float log_least, const Log& log) {
  // sigmoid(x) h >= score: x >= log(score / (h - score)).
  const float room = h * (1 + kLogitSlack) - least;
  const float bound = log_least - log(room > 1e-30f ? room : 1e-30f);
  return room > 0 ? bound : INFINITY;
}

}  // namespace fa
