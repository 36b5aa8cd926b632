// The formulas of the quality-weighted loss for one pair (box, location), or one (location, class),
// in value and gradient; written once for the CPU loops and the CUDA kernels.
// Sources: "Feature Alignment in Anchor-Free Object Detection" (TCSVT 2023), "AutoAssign" (arXiv
// 2007.03496). T is float, double or a vector of floats, see box.h; S is T's scalar type.
#pragma once

#include "quality_loss/box.h"

namespace fa {

enum class IouType : int { kGiou = 0, kLinearIou = 1, kIou = 2 };

// Real: what enters a pair's arithmetic, so that kernels for float have no conversions from double.
template <typename Real>
struct QualityOptionsOf {
  bool feature_filter;  // the misalignment score weighs the joint quality
  bool quality_prior;   // FeatureAlign's prior term, else AutoAssign's
  IouType iou_type;
  Real reg_weight;
  Real location_offset;
  double focal_alpha;
  double focal_gamma;
};
using QualityOptions = QualityOptionsOf<double>;

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float quick_quotient(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double quick_quotient(double a, double b) { return a / b; }
#endif

// a / b; on CUDA in float within 2 units of the last place, and 0 where b is above 2^126.
template <typename T>
FA_HOST_DEVICE T quotient(T a, T b) {
#if defined(__CUDA_ARCH__)
  return quick_quotient(a, b);
#else
  return a / b;
#endif
}

template <typename T>
FA_HOST_DEVICE T sigmoid(T x) {
  using std::exp;
  return quotient(T(1), T(1) + exp(T(0) - x));
}

// ---- regression quality R

template <typename T>
FA_HOST_DEVICE T regression_quality(const Ltrb<T>& prediction, const Ltrb<T>& target,
                                    const Overlap<T>& o, IouType type, T reg_weight) {
  using std::exp;
  using std::pow;
  if (type == IouType::kIou) {
    const T iou = clamp_min(o.iou, T(kBoxEps));
#if defined(__CUDA_ARCH__)
    return exp(reg_weight * log(iou));  // pow's slow path is a call, for which registers spill
#else
    return pow(iou, reg_weight);
#endif
  }
  const T iou = type == IouType::kGiou ? generalized_iou(prediction, target, o) : o.iou;
  return exp(T(0) - reg_weight * (T(1) - iou));
}

// dR / d prediction, times `scale`; r is the R of regression_quality.
template <typename T>
FA_HOST_DEVICE Ltrb<T> regression_quality_gradient(const Ltrb<T>& prediction, const Ltrb<T>& target,
                                                   const Overlap<T>& o, IouType type, T reg_weight,
                                                   T r, T scale) {
  const T by_iou = type == IouType::kIou ? select(o.iou < T(kBoxEps), T(0),
                                                  reg_weight * r / clamp_min(o.iou, T(kBoxEps)))
                                         : reg_weight * r;
  return overlap_gradient(prediction, target, o, type == IouType::kGiou, by_iou * scale);
}

// ---- Gaussian prior N of one box at one level

template <typename S>
struct Gaussian {
  S centre_x, centre_y;      // pixels
  S per_stride;              // 1 / stride
  S mu_x, mu_y;              // cells
  S half_x, half_y;          // 1 / (2 variance)
  S by_mu_x, by_mu_y;        // dN/dmu = N * d * by_mu
  S by_sigma_x, by_sigma_y;  // dN/dsigma = N * d^2 * by_sigma, 0 below the floor
};

// mu, sigma: the (x, y) pair of the box's class at this level.
template <typename S>
FA_HOST_DEVICE Gaussian<S> make_gaussian(S x1, S y1, S x2, S y2, S stride, const S* mu,
                                         const S* sigma) {
  const S floor = S(1e-6);
  const S vx = clamp_min(sigma[0] * sigma[0], floor), vy = clamp_min(sigma[1] * sigma[1], floor);
  const bool fx = sigma[0] * sigma[0] < floor, fy = sigma[1] * sigma[1] < floor;
  return {(x1 + x2) / 2,
          (y1 + y2) / 2,
          S(1) / stride,
          mu[0],
          mu[1],
          S(0.5) / vx,
          S(0.5) / vy,
          S(1) / vx,
          S(1) / vy,
          fx ? S(0) : sigma[0] / vx / vx,
          fy ? S(0) : sigma[1] / vy / vy};
}

// ---- one pair (box, location)

template <typename T>
struct PairQuality {
  T p, h, q;     // class probability, objectness, their product
  T r;           // regression quality R
  T joint;       // q R
  T confidence;  // P
  T dx, dy;      // u - mu, cells
  T gaussian;    // N
  Overlap<T> overlap;
  Ltrb<T> target;
};

template <typename T, typename S, typename Real>
FA_HOST_DEVICE PairQuality<T> pair_quality(T cls_logit, T obj_logit, const Ltrb<T>& prediction, T x,
                                           T y, S x1, S y1, S x2, S y2, const Gaussian<S>& g,
                                           const QualityOptionsOf<Real>& options) {
  using std::exp;
  PairQuality<T> c;
  c.p = sigmoid(cls_logit);
  c.h = sigmoid(obj_logit);
  c.q = c.p * c.h;
  c.target = {x - T(x1), y - T(y1), T(x2) - x, T(y2) - y};
  c.overlap = overlap(prediction, c.target);
  c.r =
      regression_quality(prediction, c.target, c.overlap, options.iou_type, T(options.reg_weight));
  c.joint = c.q * c.r;
  c.confidence = c.joint;
  if (options.feature_filter) {
    const T gap = c.q - c.r;
    c.confidence = c.joint * (T(2) - gap * gap) * T(0.5);
  }
  c.dx = (x - T(g.centre_x)) * T(g.per_stride) - T(g.mu_x);
  c.dy = (y - T(g.centre_y)) * T(g.per_stride) - T(g.mu_y);
  c.gaussian = exp(T(0) - (c.dx * c.dx * T(g.half_x) + c.dy * c.dy * T(g.half_y)));
  return c;
}

// dP/dq and dP/dR.
template <typename T>
FA_HOST_DEVICE void confidence_gradient(const PairQuality<T>& c, bool feature_filter, T* by_q,
                                        T* by_r) {
  *by_q = c.r;
  *by_r = c.q;
  if (feature_filter) {
    const T gap = c.q - c.r;
    const T factor = (T(2) - gap * gap) * T(0.5);
    *by_q = c.r * factor - c.joint * gap;
    *by_r = c.q * factor + c.joint * gap;
  }
}

// exp(q R) scaled to (0, 1] over the box, from the box's smallest and largest q R; by expm1, since
// exp(x) - min cancels in float32. The extremes come from another pass, whose q R may be rounded
// otherwise: held between them, it divides by no difference that is smaller than its own rounding.
template <typename T, typename S>
FA_HOST_DEVICE T prior_weight(T joint, S lowest, S highest) {
  using std::exp;
  using std::expm1;
  const S base = exp(lowest);
  const T held = clamp_min(select(T(highest) < joint, T(highest), joint), T(lowest));
  return (T(base) * expm1(held - T(lowest)) + T(1e-12)) /
         T(base * expm1(highest - lowest) + S(1e-12));
}

// ---- negative weights

// e(iou) - e(lowest) with e = 1 / max(1 - iou, 1e-12); the difference of the IoUs keeps the digits
// that the difference of two e near 1 would lose.
template <typename T>
FA_HOST_DEVICE T spared_excess(T iou, T lowest) {
  const T d = clamp_min(T(1) - iou, T(1e-12)), d_lowest = clamp_min(T(1) - lowest, T(1e-12));
  const T gap = select(T(1) - iou < T(1e-12), d_lowest - d, iou - lowest);
  return gap / (d * d_lowest);
}

// 1 - M of an inside location, from the smallest and largest IoU over the box.
template <typename T, typename S>
FA_HOST_DEVICE T negative_weight(T iou, S lowest, S highest) {
  return T(1) -
         (spared_excess(iou, T(lowest)) + T(1e-12)) / T(spared_excess(highest, lowest) + S(1e-12));
}

// ---- binary cross-entropy and the focal term, with torch's clamps

// -log(1 - n), at most 100.
template <typename T>
FA_HOST_DEVICE T negative_log(T n) {
  using std::log1p;
  return select(T(1) - n == T(0), T(100), T(0) - log1p(T(0) - n));
}

// n^gamma * -log(1 - n)
template <bool kSquare, typename T>
FA_HOST_DEVICE T focal_term(T n, double gamma) {
  using std::pow;
  return (kSquare ? n * n : pow(n, T(gamma))) * negative_log(n);
}

// d focal_term / dn
template <bool kSquare, typename T>
FA_HOST_DEVICE T focal_slope(T n, double gamma) {
  using std::pow;
  const T by_log = quotient(n, clamp_min((T(1) - n) * n, T(1e-12)));
  if (kSquare) return n * (T(2) * negative_log(n) + n * by_log);
  const T by_power = gamma == 0 ? T(0) : T(gamma) * pow(n, T(gamma - 1));
  return by_power * negative_log(n) + pow(n, T(gamma)) * by_log;
}

// focal_term, and focal_slope into *slope if kGradient.
template <bool kSquare, bool kGradient, typename T>
FA_HOST_DEVICE T focal(T n, double gamma, T* slope) {
  if (kGradient) *slope = focal_slope<kSquare>(n, gamma);
  return focal_term<kSquare>(n, gamma);
}

// -log(b) of a bag, at most 100, and its derivative.
template <typename S>
FA_HOST_DEVICE S bag_loss(S b) {
  using std::log;
  const S bounded = S(1) < b ? S(1) : b;
  return S(0) - clamp_min(S(log(bounded)), S(-100));
}

template <typename S>
FA_HOST_DEVICE S bag_slope(S b) {
  const S bounded = S(1) < b ? S(1) : b;
  return S(0) - (S(1) - bounded) / clamp_min(bounded * (S(1) - bounded), S(1e-12));
}

}  // namespace fa
