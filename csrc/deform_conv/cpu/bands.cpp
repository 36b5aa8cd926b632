#include "deform_conv/cpu/bands.h"

#include <algorithm>

namespace fa::deform {
namespace {

constexpr int64_t kBand = 8192;  // positions of a band, about
constexpr int64_t kSlots = 8;    // most parts of the maps that run side by side for a block

}  // namespace

template <typename T>
std::vector<Band> make_bands(const Map<T>* maps, int64_t count) {
  std::vector<Band> bands;
  for (int64_t m = 0; m < count; ++m) {
    const int64_t parts = std::max<int64_t>(1, (maps[m].positions() + kBand / 2) / kBand);
    for (int64_t i = 0; i < parts; ++i) {
      const int32_t from = maps[m].tiles * i / parts, to = maps[m].tiles * (i + 1) / parts;
      if (from < to) bands.push_back({m, from, to, {}, {}});
    }
  }
  return bands;
}

template <typename T>
std::vector<int64_t> make_slots(const Map<T>* maps, const std::vector<Band>& bands) {
  const auto positions = [&](const Band& band) {
    return int64_t(band.tile_end - band.tile_begin) * maps[band.map].tile_size;
  };
  int64_t total = 0, seen = 0;
  for (const Band& band : bands) total += positions(band);
  const int64_t slots = std::min<int64_t>(kSlots, bands.size());
  std::vector<int64_t> begins;
  for (size_t i = 0; i < bands.size(); ++i) {
    if (seen * slots >= total * int64_t(begins.size())) begins.push_back(i);
    seen += positions(bands[i]);
  }
  begins.push_back(bands.size());
  return begins;
}

template <typename T>
void find_reach(const Geometry& geometry, const Map<T>& map, const Sample<T>* samples, Band& band) {
  const int from = map.tile_begin(band.tile_begin);
  const int to = map.tile_begin(band.tile_end - 1) + map.tile_count(band.tile_end - 1);
  for (int g = 0; g < geometry.offset_groups; ++g) {
    int32_t first = map.pixels(), last = 0;
    for (int tap = 0; tap < geometry.taps(); ++tap, samples += map.positions()) {
      for (int p = from; p < to; ++p) {
        for (const int32_t pixel : samples[p].corner) {
          first = std::min(first, pixel);
          last = std::max(last, pixel == map.pixels() ? 0 : pixel + 1);
        }
      }
    }
    band.first_pixel.push_back(std::min(first, last));
    band.last_pixel.push_back(last);
  }
}

#define FA_INSTANTIATE(T)                                                               \
  template std::vector<Band> make_bands<T>(const Map<T>*, int64_t);                     \
  template std::vector<int64_t> make_slots<T>(const Map<T>*, const std::vector<Band>&); \
  template void find_reach<T>(const Geometry&, const Map<T>&, const Sample<T>*, Band&);
FA_INSTANTIATE(float)
FA_INSTANTIATE(double)

}  // namespace fa::deform
