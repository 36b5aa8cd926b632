// Bilinear sampling of a map at a fractional point, for CPU and CUDA: where the four corners are,
// what they weigh, and the derivatives by the point's coordinates ("Deformable ConvNets v2", arXiv
// 1811.11168; zero outside the map).
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace fa {

// The point lies `ly` below and `lx` right of the first corner, which is row `top` and column
// `left`; corners in the order top-left, top-right, bottom-left, bottom-right, as y * width + x, or
// `outside` for one that the map does not have. Far outside top is kFar, and left has no meaning.
template <typename T>
struct BilinearPoint {
  T ly, lx;
  int32_t corner[4];
  int32_t top, left;
};
constexpr int32_t kFar = INT32_MIN;

// Coordinates in pixels. A point further than one pixel outside, infinity included, has no corner
// and weighs 0; one with a NaN has no corner and weighs NaN, so that 0-valued stand-ins for the
// corners still give NaN: a 0 would hide a diverging training. Nothing is converted to an integer
// before its range is known.
template <typename T>
FA_HOST_DEVICE BilinearPoint<T> bilinear_point(T y, T x, int32_t height, int32_t width,
                                               int32_t outside) {
  BilinearPoint<T> point;
  if (!(y > T(-2) && y < T(height + 1) && x > T(-2) && x < T(width + 1))) {
    point.ly = y != y ? y : (x != x ? x : T(0));
    point.lx = point.ly;
    point.top = kFar, point.left = 0;
    point.corner[0] = point.corner[1] = point.corner[2] = point.corner[3] = outside;
    return point;
  }
  int32_t top = static_cast<int32_t>(y), left = static_cast<int32_t>(x);
  top -= T(top) > y;  // truncation rounds negative numbers up
  left -= T(left) > x;
  point.top = top, point.left = left;
  point.ly = y - T(top);
  point.lx = x - T(left);
  // Unsigned comparison: one test for both ends. Also at exactly y = -1, where the value is 0, the
  // bottom corners stay: the derivative by y is not 0 there.
  const bool has_top = static_cast<uint32_t>(top) < static_cast<uint32_t>(height);
  const bool has_bottom = static_cast<uint32_t>(top + 1) < static_cast<uint32_t>(height);
  const bool has_left = static_cast<uint32_t>(left) < static_cast<uint32_t>(width);
  const bool has_right = static_cast<uint32_t>(left + 1) < static_cast<uint32_t>(width);
  const int64_t first =
      int64_t(top) * width + left;  // may lie outside the map, then it is not used
  point.corner[0] = has_top && has_left ? static_cast<int32_t>(first) : outside;
  point.corner[1] = has_top && has_right ? static_cast<int32_t>(first + 1) : outside;
  point.corner[2] = has_bottom && has_left ? static_cast<int32_t>(first + width) : outside;
  point.corner[3] = has_bottom && has_right ? static_cast<int32_t>(first + width + 1) : outside;
  return point;
}

// The corners' weights times `scale`.
template <typename T>
FA_HOST_DEVICE void bilinear_weights(T ly, T lx, T scale, T weights[4]) {
  const T top = scale * (T(1) - ly), bottom = scale * ly;
  weights[0] = top * (T(1) - lx);
  weights[1] = top * lx;
  weights[2] = bottom * (T(1) - lx);
  weights[3] = bottom * lx;
}

// The sample and its derivatives by y and x from the corners' values. V is T or a vector of T.
template <typename T, typename V>
FA_HOST_DEVICE void bilinear_derivatives(T ly, T lx, const V corner[4], V* value, V* dy, V* dx) {
  const V top = corner[0] + (corner[1] - corner[0]) * lx;
  const V bottom = corner[2] + (corner[3] - corner[2]) * lx;
  const V left = corner[1] - corner[0], right = corner[3] - corner[2];
  *dy = bottom - top;
  *value = top + *dy * ly;
  *dx = left + (right - left) * ly;
}

}  // namespace fa
