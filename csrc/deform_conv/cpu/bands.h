// How backward of deform_conv2d cuts its maps into parts that run side by side.
#pragma once

#include <vector>

#include "deform_conv/cpu/plan.h"

namespace fa::deform {

// A stretch of a map's tiles. Its share of the input's gradient has a plane of its own, no larger
// than what its samples reach, so that bands need not wait for each other.
struct Band {
  int64_t map;
  int32_t tile_begin, tile_end;
  std::vector<int32_t> first_pixel, last_pixel;  // per offset group: [first, last)
};

// The bands of `count` maps, in order. They depend on the maps' sizes alone.
template <typename T>
std::vector<Band> make_bands(const Map<T>* maps, int64_t count);

// Slots of about equally many positions, each a run of bands: slot i is [result[i], result[i + 1]).
template <typename T>
std::vector<int64_t> make_slots(const Map<T>* maps, const std::vector<Band>& bands);

// Sets a band's first_pixel and last_pixel from where its map's samples (D, T, P) lie.
template <typename T>
void find_reach(const Geometry& geometry, const Map<T>& map, const Sample<T>* samples, Band& band);

}  // namespace fa::deform
