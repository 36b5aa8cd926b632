#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "deform_conv/cpu/bands.h"
#include "deform_conv/cpu/conv.h"

namespace fa::deform {
namespace {

constexpr int64_t kGroupElements = int64_t(8)
                                   << 20;  // packed gradients that are held at once, or one map's
constexpr int64_t kWaveElements = int64_t(1) << 20;  // input pixels times channels that fill a wave
constexpr int64_t kRun = 64;                         // pixels that are transposed at once

// Maps [first, last) of the call, worked on together.
template <typename T>
class MapGroup {
 public:
  MapGroup(const Kernels<T>& kernel, const Geometry& geometry,
           const std::vector<ChannelBlock>& blocks, const Map<T>* maps, int64_t count)
      : kernel_(kernel),
        geometry_(geometry),
        blocks_(blocks),
        maps_(maps),
        count_(count),
        tile_row_(geometry.groups * padded_outputs(geometry, kernel.panel)),
        grad_at_(count + 1),
        sample_at_(count + 1),
        grad_(reserve_grad()),
        samples_(reserve_samples()),
        bands_(make_bands(maps, count)),
        slot_bands_(make_slots(maps, bands_)) {
    pack();
    if (wants_input()) {
      at::parallel_for(0, bands_.size(), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t m = bands_[i].map;
          find_reach(geometry_, maps_[m], samples(m, 0), bands_[i]);
        }
      });
    }
  }

  void run(const T* packed_weight, T* grad_weight) {
    // At least what keeps the threads busy; all blocks where the maps are small, for every wave
    // costs a few barriers.
    int64_t pixels = 0;
    for (int64_t m = 0; m < count_; ++m) pixels += maps_[m].pixels();
    const int64_t busy = (2 * at::get_num_threads() + slots() - 1) / slots();
    const int64_t small = kWaveElements / (pixels * kChannelBlock);
    const int64_t most = std::clamp<int64_t>(std::max(busy, small), 1, blocks_.size());
    const int64_t waves = (blocks_.size() + most - 1) / most;
    const int64_t wave = (blocks_.size() + waves - 1) / waves;  // equal ones: no thread waits alone
    for (int64_t b = 0; b < int64_t(blocks_.size()); b += wave) {
      run_wave(b, std::min<int64_t>(b + wave, blocks_.size()), packed_weight, grad_weight);
    }
  }

 private:
  bool wants_input() const { return maps_[0].grad_input.data != nullptr; }
  bool wants_points() const {
    return maps_[0].grad_offset.data != nullptr || maps_[0].grad_mask.data != nullptr;
  }
  int64_t slots() const { return slot_bands_.size() - 1; }
  int64_t point_rows() const { return 3 * int64_t(geometry_.taps()); }

  Buffer<T> reserve_grad() {
    for (int64_t m = 0; m < count_; ++m) {
      grad_at_[m + 1] = grad_at_[m] + int64_t(maps_[m].tiles) * maps_[m].tile_size * tile_row_;
    }
    return Buffer<T>(grad_at_[count_]);
  }

  Buffer<Sample<T>> reserve_samples() {
    for (int64_t m = 0; m < count_; ++m) {
      sample_at_[m + 1] = sample_at_[m] + int64_t(maps_[m].positions()) * geometry_.offset_groups *
                                              geometry_.taps();
    }
    return Buffer<Sample<T>>(sample_at_[count_]);
  }

  const Sample<T>* samples(int64_t m, int offset_group) const {
    return samples_.data() + sample_at_[m] +
           int64_t(offset_group) * geometry_.taps() * maps_[m].positions();
  }

  void pack() {
    std::vector<int64_t> tile_at{0};
    for (int64_t m = 0; m < count_; ++m) tile_at.push_back(tile_at.back() + maps_[m].tiles);
    at::parallel_for(0, tile_at.back(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t m = std::upper_bound(tile_at.begin(), tile_at.end(), i) - tile_at.begin() - 1;
        const Map<T>& map = maps_[m];
        const int tile = i - tile_at[m];
        kernel_.pack_grad(geometry_, map, tile,
                          grad_.data() + grad_at_[m] + tile * map.tile_size * tile_row_);
        for (int g = 0; g < geometry_.offset_groups; ++g) {
          Sample<T>* to = const_cast<Sample<T>*>(samples(m, g)) + map.tile_begin(tile);
          kernel_.locate(geometry_, map, g, 0, geometry_.taps(), map.tile_begin(tile),
                         map.tile_count(tile), to, map.positions());
        }
      }
    });
  }

  // Channel blocks [begin, end): how many at once is a matter of threads and memory, not of the
  // result.
  void run_wave(int64_t begin, int64_t end, const T* packed_weight, T* grad_weight) {
    const int64_t wave = end - begin, num_bands = bands_.size();
    const int64_t block_elements = packed_block(geometry_, kernel_.panel);
    std::vector<int64_t> plane_at{0}, grad_plane_at{0}, point_at{0};
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t m = 0; m < count_; ++m) {
        plane_at.push_back(plane_at.back() + (int64_t(maps_[m].pixels()) + 1) * kChannelBlock);
        point_at.push_back(point_at.back() +
                           (wants_points() ? point_rows() * maps_[m].positions() : 0));
      }
      for (const Band& band : bands_) {
        const int g = blocks_[b].offset_group;
        const int64_t rows =
            wants_input() ? int64_t(band.last_pixel[g]) - band.first_pixel[g] + 1 : 0;
        grad_plane_at.push_back(grad_plane_at.back() + rows * kChannelBlock);
      }
    }
    const Buffer<T> planes(plane_at.back()), grad_planes(grad_plane_at.back()),
        points(point_at.back());
    const Buffer<T> grad_weights(grad_weight != nullptr ? wave * slots() * block_elements : 0);
    at::parallel_for(0, wave * count_, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Map<T>& map = maps_[i % count_];
        kernel_.pack_input(map.input, blocks_[begin + i / count_], map.pixels(),
                           planes.data() + plane_at[i]);
      }
    });

    at::parallel_for(0, wave * slots(), 1, [&](int64_t first, int64_t last) {
      const Buffer<T> scratch(backward_scratch<T>());
      for (int64_t i = first; i < last; ++i) {
        const int64_t w = i / slots(), slot = i % slots();
        const ChannelBlock& block = blocks_[begin + w];
        T* slot_weight =
            grad_weight != nullptr ? grad_weights.data() + i * block_elements : nullptr;
        if (slot_weight != nullptr) std::memset(slot_weight, 0, block_elements * sizeof(T));
        for (int64_t k = slot_bands_[slot]; k < slot_bands_[slot + 1]; ++k) {
          const Band& band = bands_[k];
          const Map<T>& map = maps_[band.map];
          BackwardUnit<T> unit;
          unit.map = &map;
          unit.plane = planes.data() + plane_at[w * count_ + band.map];
          unit.grad_tile_stride = map.tile_size * tile_row_;
          unit.grad_output = grad_.data() + grad_at_[band.map] +
                             block.group * padded_outputs(geometry_, kernel_.panel) * map.tile_size;
          unit.weight = packed_weight + (begin + w) * block_elements;
          unit.samples = samples(band.map, block.offset_group);
          unit.grad_plane = nullptr;
          unit.first_pixel = unit.last_pixel = 0;
          if (wants_input()) {
            const int64_t from = grad_plane_at[w * num_bands + k],
                          to = grad_plane_at[w * num_bands + k + 1];
            unit.grad_plane = grad_planes.data() + from;
            unit.first_pixel = band.first_pixel[block.offset_group];
            unit.last_pixel = band.last_pixel[block.offset_group];
            std::memset(unit.grad_plane, 0, (to - from) * sizeof(T));
          }
          unit.grad_weight = slot_weight;
          unit.grad_points =
              wants_points() ? points.data() + point_at[w * count_ + band.map] : nullptr;
          unit.tile_begin = band.tile_begin;
          unit.tile_end = band.tile_end;
          kernel_.backward(geometry_, unit, scratch.data());
        }
      }
    });

    if (grad_weight != nullptr) {
      for (int64_t w = 0; w < wave; ++w) {
        add_grad_weight(geometry_, blocks_[begin + w], kernel_.panel,
                        grad_weights.data() + w * slots() * block_elements, slots(), block_elements,
                        grad_weight);
      }
    }
    if (wants_input()) {
      for (int64_t w = 0; w < wave; ++w) {
        write_grad_input(blocks_[begin + w], grad_planes.data(),
                         grad_plane_at.data() + w * num_bands);
      }
    }
    if (wants_points()) {
      for (int64_t w = 0; w < wave; ++w)
        write_grad_points(begin + w, points.data(), point_at.data() + w * count_);
    }
  }

  // Sums the bands' planes, in their order, into the gradient of the input.
  void write_grad_input(const ChannelBlock& block, const T* grad_planes,
                        const int64_t* plane_at) const {
    size_t band_begin = 0;
    for (int64_t m = 0; m < count_; ++m) {
      const Map<T>& map = maps_[m];
      size_t band_end = band_begin;
      while (band_end < bands_.size() && bands_[band_end].map == m) ++band_end;
      at::parallel_for(
          0, (int64_t(map.pixels()) + kRun - 1) / kRun, 16, [&](int64_t first, int64_t last) {
            T sums[kRun * kChannelBlock];
            for (int64_t run = first; run < last; ++run) {
              const int64_t from = run * kRun, to = std::min<int64_t>(from + kRun, map.pixels());
              std::memset(sums, 0, sizeof(sums));
              for (size_t k = band_begin; k < band_end; ++k) {
                const int64_t begin = bands_[k].first_pixel[block.offset_group];
                const int64_t low = std::max(from, begin);
                const int64_t high =
                    std::min<int64_t>(to, bands_[k].last_pixel[block.offset_group]);
                if (low >= high) continue;
                const T* source = grad_planes + plane_at[k] + (low - begin) * kChannelBlock;
                T* sum = sums + (low - from) * kChannelBlock;
                for (int64_t i = 0; i < (high - low) * kChannelBlock; ++i) sum[i] += source[i];
              }
              for (int c = 0; c < block.channels; ++c) {
                T* target =
                    map.grad_input.data + (block.channel + c) * map.grad_input.channel_stride;
                for (int64_t p = from; p < to; ++p) {
                  target[p * map.grad_input.pixel_stride] = sums[(p - from) * kChannelBlock + c];
                }
              }
            }
          });
      band_begin = band_end;
    }
  }

  // Adds a block's derivatives by coordinates and mask; the first block of an offset group sets
  // them.
  void write_grad_points(int64_t b, const T* points, const int64_t* point_at) const {
    const int group = blocks_[b].offset_group, taps = geometry_.taps();
    const bool set = b == 0 || blocks_[b - 1].offset_group != group;
    at::parallel_for(0, count_ * point_rows(), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Map<T>& map = maps_[i / point_rows()];
        const int row = i % point_rows(), tap = row / 3, kind = row % 3;
        const View<T>& view = kind == 2 ? map.grad_mask : map.grad_offset;
        if (view.data == nullptr) continue;
        const int64_t channel = int64_t(group) * taps + tap;
        T* to = view.data + (kind == 2 ? channel : 2 * channel + kind) * view.channel_stride;
        const T* from = points + point_at[i / point_rows()] + row * int64_t(map.positions());
        for (int64_t p = 0; p < map.positions(); ++p) {
          T& target = to[p * view.pixel_stride];
          target = set ? from[p] : target + from[p];
        }
      }
    });
  }

  const Kernels<T>& kernel_;
  const Geometry& geometry_;
  const std::vector<ChannelBlock>& blocks_;
  const Map<T>* maps_;
  const int64_t count_, tile_row_;  // tile_row_: elements of a position of the packed gradient
  std::vector<int64_t> grad_at_, sample_at_;  // where a map begins
  const Buffer<T> grad_;
  const Buffer<Sample<T>> samples_;
  std::vector<Band> bands_;  // of this group's maps
  const std::vector<int64_t> slot_bands_;
};

}  // namespace

template <typename T>
void backward(const std::vector<Level>& levels, bool mask_is_logit, const at::Tensor& weight,
              const at::Tensor& grad_weight) {
  const Kernels<T>& kernel = kernels<T>();
  const Geometry geometry = make_geometry(levels[0].arguments, mask_is_logit);
  const std::vector<ChannelBlock> blocks = make_blocks(geometry);
  const std::vector<Map<T>> maps = make_maps<T>(levels);
  if (maps.empty()) return;
  const Buffer<T> packed =
      pack_weight_backward<T>(geometry, blocks, kernel.panel, weight.data_ptr<T>());
  T* grad_weight_data = grad_weight.defined() ? grad_weight.data_ptr<T>() : nullptr;
  const int64_t row = geometry.groups * padded_outputs(geometry, kernel.panel);
  for (size_t first = 0, last; first < maps.size(); first = last) {
    int64_t elements = 0;
    for (last = first; last < maps.size() && (last == first || elements < kGroupElements); ++last) {
      elements += int64_t(maps[last].tiles) * maps[last].tile_size * row;
    }
    MapGroup<T>(kernel, geometry, blocks, maps.data() + first, last - first)
        .run(packed.data(), grad_weight_data);
  }
}

template void backward<float>(const std::vector<Level>&, bool, const at::Tensor&,
                              const at::Tensor&);
template void backward<double>(const std::vector<Level>&, bool, const at::Tensor&,
                               const at::Tensor&);

}  // namespace fa::deform
