// Launchers of the deformable convolution's own CUDA kernels: sampling columns, the gradients by
// points and by the input, and the copies between maps and rows. Checked by the caller; on the
// current stream. Legend: N images, C channels, O outputs, T taps, G groups, D offset groups, P
// positions (pixels of the output) of a segment.
#pragma once

#include <ATen/OpMathType.h>

#include <cstdint>

namespace fa::deform::cuda {

// A map (N, C, H, W) of any strides, in elements; image 0 is the first one of a block.
template <typename T>
struct Map {
  T* data;  // null where there is none
  int64_t image, channel, row, column;
};

// Consecutive positions of a block of images, from `first_pixel` of `first_image` on. Counted in 32
// bits: see chunks.cpp.
struct Positions {
  uint32_t first_image, first_pixel, count;
};

// Sizes that the sampling needs, passed by value.
struct Geometry {
  int32_t channels, groups, offset_groups, height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  bool mask_is_logit;
};

// What is sampled where. Points and sums are float32 for the half types.
template <typename T>
struct Samples {
  using Sum = at::opmath_type<T>;
  Geometry geometry;
  Positions positions;
  // Patches of 8 x 8 positions in a row, where the segment is whole rows of the output; 0: patches
  // are of consecutive positions.
  uint32_t patches_across;
  const T* input;  // (images, H, W, C), the images `input_image` elements apart
  int64_t input_image;
  Map<const Sum> offset, mask;
};

// columns (P, G, T, C / G): the samples times the mask.
template <typename T>
void launch_columns(const Samples<T>& samples, T* columns);

// Where the input's gradient is added up.
template <typename T>
struct InputGradient {
  using Sum = at::opmath_type<T>;
  // (images, H, W, C), added to: of Sum, or where fixed is set of int64 in units of 1 / fixed[0],
  // whose sum has no rounding and so no order. fixed[1] becomes NaN where an addend is not finite.
  void* sums;
  Sum* fixed;
};

// columns (P, G, T, C / G) hold the gradient by the columns.
template <typename T>
void launch_scatter(const Samples<T>& samples, const InputGradient<T>& to, const T* columns);

// What else the gradient by the columns becomes; null where it is not wanted.
template <typename T>
struct PointGradients {
  using Sum = at::opmath_type<T>;
  Map<Sum> offset, mask;
  bool columns;  // overwrite the columns' gradient with the columns
};

// columns as above.
template <typename T>
void launch_points(const Samples<T>& samples, const PointGradients<T>& gradients, T* columns);

// rows (P, C) of the positions of a map whose images have height * width pixels.
template <typename T>
void launch_to_rows(const Map<const T>& map, int32_t channels, int32_t height, int32_t width,
                    const Positions& positions, T* rows);

// The way back, rounded to the map's type. fixed: as InputGradient's; read for int64 alone.
template <typename From, typename T>
void launch_from_rows(const From* rows, const at::opmath_type<T>* fixed, int32_t channels,
                      int32_t height, int32_t width, const Positions& positions, const Map<T>& map);

}  // namespace fa::deform::cuda
