// Maps of the head as the decoding's and the loss's kernels read them: contiguous or channels_last,
// no copy. Blocks take tiles of 64 locations with 4 threads each.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace fa {

constexpr int kTileLocations = 64, kTileParts = 4;
constexpr int kTileThreads = kTileLocations * kTileParts;

// (N, C, H, W), of one level; T is const where it is only read.
template <typename T>
struct Map {
  T* data;
  int64_t image;          // elements from an image to the next,
  int32_t channel, cell;  // a channel, a location
};

// The first channel of an image's location.
template <typename T>
FA_HOST_DEVICE T* channels_of(const Map<T>& map, int image, int64_t cell) {
  return map.data + image * map.image + cell * map.cell;
}

// What a thread of a tile works on: channels part, part + kTileParts, ... of one of its locations.
// Neighbouring threads read neighbouring elements: of locations, or in channels_last of channels.
struct TilePlace {
  int location, part;
};

FA_HOST_DEVICE TilePlace tile_place(int thread, bool channels_last) {
  if (channels_last) return {thread / kTileParts, thread % kTileParts};
  return {thread % kTileLocations, thread / kTileLocations};
}

}  // namespace fa
