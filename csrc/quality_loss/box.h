// Overlap of two boxes and its gradient, written once for the CPU loops and the CUDA kernels.
//
// T is float, double or a vector of floats (quality_loss/cpu/vector.h): comparisons then give
// masks, and select() takes the place of branches. Both boxes are given by their distances to the
// four sides from one common point. The point's coordinates cancel: small boxes far from the origin
// keep all their digits.
#pragma once

#include <cmath>

#include "common/macros.h"

namespace fa {

constexpr double kBoxEps = 1.1920929e-07;  // float32's epsilon, in every dtype, as published

template <typename T>
FA_HOST_DEVICE T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}

// As torch's clamp(min=...): a NaN stays a NaN.
template <typename T>
FA_HOST_DEVICE T clamp_min(T x, T lowest) {
  return select(x < lowest, lowest, x);
}

template <typename T>
FA_HOST_DEVICE T smaller(T a, T b) {
  return select(a < b, a, b);
}

template <typename T>
FA_HOST_DEVICE T larger(T a, T b) {
  return select(a < b, b, a);
}

// d min(a, b) / da as torch's autograd gives it: a half where both are equal.
template <typename T>
FA_HOST_DEVICE T smaller_slope(T a, T b) {
  return select(a < b, T(1), select(b < a, T(0), T(0.5)));
}

// Distances in pixels; of a predicted box, or of a target (negative where the point is outside).
template <typename T>
struct Ltrb {
  T l, t, r, b;
};

template <typename T>
struct Overlap {
  T raw_w, raw_h;  // sides of the intersection before their clamp at 0
  T intersection, union_area, iou;
};

template <typename T>
FA_HOST_DEVICE T area(const Ltrb<T>& box) {
  return clamp_min(box.l + box.r, T(0)) * clamp_min(box.t + box.b, T(0));
}

template <typename T>
FA_HOST_DEVICE Overlap<T> overlap(const Ltrb<T>& a, const Ltrb<T>& b) {
  Overlap<T> o;
  o.raw_w = smaller(a.l, b.l) + smaller(a.r, b.r);
  o.raw_h = smaller(a.t, b.t) + smaller(a.b, b.b);
  o.intersection = clamp_min(o.raw_w, T(0)) * clamp_min(o.raw_h, T(0));
  o.union_area = area(a) + area(b) - o.intersection;
  o.iou = o.intersection / clamp_min(o.union_area, T(kBoxEps));
  return o;
}

template <typename T>
FA_HOST_DEVICE T generalized_iou(const Ltrb<T>& a, const Ltrb<T>& b, const Overlap<T>& o) {
  const T enclosing = (larger(a.l, b.l) + larger(a.r, b.r)) * (larger(a.t, b.t) + larger(a.b, b.b));
  return o.iou - (enclosing - o.union_area) / clamp_min(enclosing, T(kBoxEps));
}

// Gradient of the IoU (generalized: of the GIoU) with respect to box a, times `scale`.
template <typename T>
FA_HOST_DEVICE Ltrb<T> overlap_gradient(const Ltrb<T>& a, const Ltrb<T>& b, const Overlap<T>& o,
                                        bool generalized, T scale) {
  const T zero(0), one(1), eps(kBoxEps);
  const T inverse_union = one / clamp_min(o.union_area, eps);
  T by_union = select(o.union_area < eps, zero, zero - o.iou * inverse_union);
  const T enclosing_w = larger(a.l, b.l) + larger(a.r, b.r);
  const T enclosing_h = larger(a.t, b.t) + larger(a.b, b.b);
  T by_enclosing = zero;
  if (generalized) {
    const T enclosing = enclosing_w * enclosing_h;
    const T inverse = one / clamp_min(enclosing, eps);
    by_enclosing =
        select(enclosing < eps, zero, (enclosing - o.union_area) * inverse * inverse) - inverse;
    by_union = by_union + inverse;
  }
  const T by_intersection = (inverse_union - by_union) * scale;
  by_union = by_union * scale;
  by_enclosing = by_enclosing * scale;

  // Of the intersection's, the box's and the enclosing sides along x and y.
  const T iw = select(o.raw_w < zero, zero, by_intersection * clamp_min(o.raw_h, zero));
  const T ih = select(o.raw_h < zero, zero, by_intersection * clamp_min(o.raw_w, zero));
  const T width = a.l + a.r, height = a.t + a.b;
  const T aw = select(width < zero, zero, by_union * clamp_min(height, zero));
  const T ah = select(height < zero, zero, by_union * clamp_min(width, zero));
  const T ew = by_enclosing * enclosing_h, eh = by_enclosing * enclosing_w;
  const T sl = smaller_slope(a.l, b.l), st = smaller_slope(a.t, b.t);
  const T sr = smaller_slope(a.r, b.r), sb = smaller_slope(a.b, b.b);
  return {aw + iw * sl + ew * (one - sl), ah + ih * st + eh * (one - st),
          aw + iw * sr + ew * (one - sr), ah + ih * sb + eh * (one - sb)};
}

}  // namespace fa
