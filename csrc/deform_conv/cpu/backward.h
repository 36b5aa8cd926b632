// Backward of deform_conv2d on the CPU: included inside a namespace of its own by
// instance.h. One thread owns a channel block of a stretch of tiles, so nothing is shared
// and every sum has one order.

template <typename T>
void pack_grad(const Geometry& geometry, const Map<T>& map, int tile, T* packed) {
  const int begin = map.tile_begin(tile), count = map.tile_count(tile);
  const int outputs = geometry.group_outputs();
  const int panels = (outputs + kPanel<T> - 1) / kPanel<T>;
  for (int group = 0; group < geometry.groups; ++group) {
    for (int o = 0; o < panels * kPanel<T>; ++o) {
      T* to = packed + (int64_t(group) * panels + o / kPanel<T>)*map.tile_size * kPanel<T> +
              o % kPanel<T>;
      const int filled = o < outputs ? count : 0;
      const int64_t channel = int64_t(group) * outputs + o;
      const T* from =
          map.output.data + channel * map.output.channel_stride + begin * map.output.pixel_stride;
      if (map.output.pixel_stride == 1) {
        for (int p = 0; p < filled; ++p) to[p * kPanel<T>] = from[p];
      } else {
        for (int p = 0; p < filled; ++p) to[p * kPanel<T>] = from[p * map.output.pixel_stride];
      }
      for (int p = filled; p < map.tile_size; ++p) to[p * kPanel<T>] = T(0);
    }
  }
}

// For each position and tap, with g = grad_columns: the columns again, g scattered to the corners,
// and the derivatives by coordinates and mask.
template <typename T, bool kColumns, bool kInput, bool kPoints>
void sample_backward(const Geometry& geometry, const BackwardUnit<T>& unit, int tap_begin,
                     int tap_end, int begin, int count, const T* grad_columns, T* columns) {
  const Map<T>& map = *unit.map;
  const int outside = map.pixels();
  const int64_t positions = map.positions();
  constexpr int kVectors = kChannelBlock / kLanes<T>;
  for (int p = 0; p < count; ++p) {
    for (int t = tap_begin; t < tap_end; ++t) {
      const Sample<T>& sample = unit.samples[t * positions + begin + p];
      const int64_t at = int64_t(p) * kColumn + (t - tap_begin) * kChannelBlock;
      Vector<T> dots[4] = {};
      if constexpr (kColumns || kPoints) {
        const T* row[4] = {
            row_of(unit.plane, sample.corner[0]), row_of(unit.plane, sample.corner[1]),
            row_of(unit.plane, sample.corner[2]), row_of(unit.plane, sample.corner[3])};
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          const int c = v * kLanes<T>;
          const Vector<T> value[4] = {load(row[0] + c), load(row[1] + c), load(row[2] + c),
                                      load(row[3] + c)};
          if constexpr (kColumns) {
            const Vector<T> upper = sample.weight[0] * value[0] + sample.weight[1] * value[1];
            const Vector<T> lower = sample.weight[2] * value[2] + sample.weight[3] * value[3];
            store(columns + at + c, upper + lower);
          }
          if constexpr (kPoints) {
            const Vector<T> grad = load(grad_columns + at + c);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) dots[k] += value[k] * grad;
          }
        }
      }
      if constexpr (kInput) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const int pixel = sample.corner[k] == outside ? unit.last_pixel : sample.corner[k];
          T* to = row_of(unit.grad_plane, pixel - unit.first_pixel);
#pragma GCC unroll 16
          for (int c = 0; c < kChannelBlock; c += kLanes<T>) {
            store(to + c, load(to + c) + sample.weight[k] * load(grad_columns + at + c));
          }
        }
      }
      if constexpr (kPoints) {
        Vector<T> value, dy, dx;
        bilinear_derivatives(sample.ly, sample.lx, dots, &value, &dy, &dx);
        T* to = unit.grad_points + int64_t(t) * 3 * positions + begin + p;
        to[0] = sum<T>(dy) * sample.mask;
        to[positions] = sum<T>(dx) * sample.mask;
        const T slope = geometry.mask_is_logit ? sample.mask * (T(1) - sample.mask) : T(1);
        to[2 * positions] = sum<T>(value) * slope;
      }
    }
  }
}

template <typename T>
using SampleBackward = void (*)(const Geometry&, const BackwardUnit<T>&, int, int, int, int,
                                const T*, T*);

template <typename T>
SampleBackward<T> choose_sample_backward(bool columns, bool input, bool points) {
  static constexpr SampleBackward<T> choices[8] = {
      nullptr,
      sample_backward<T, false, false, true>,
      sample_backward<T, false, true, false>,
      sample_backward<T, false, true, true>,
      sample_backward<T, true, false, false>,
      sample_backward<T, true, false, true>,
      sample_backward<T, true, true, false>,
      sample_backward<T, true, true, true>,
  };
  return choices[columns * 4 + input * 2 + points];
}

template <typename T>
void backward(const Geometry& geometry, const BackwardUnit<T>& unit, T* scratch) {
  const Map<T>& map = *unit.map;
  const int panels = (geometry.group_outputs() + kPanel<T> - 1) / kPanel<T>;
  const int64_t panel_stride = int64_t(map.tile_size) * kPanel<T>;
  const bool columns_needed = unit.grad_weight != nullptr;
  const bool input_needed = unit.grad_plane != nullptr, points_needed = unit.grad_points != nullptr;
  const SampleBackward<T> sample =
      choose_sample_backward<T>(columns_needed, input_needed, points_needed);
  T* grad_columns = scratch;                        // (rows, kColumn)
  T* columns = scratch + int64_t(kTile) * kColumn;  // (count, kColumn)
  for (int tile = unit.tile_begin; tile < unit.tile_end; ++tile) {
    const int begin = map.tile_begin(tile), count = map.tile_count(tile);
    const T* grad = unit.grad_output + tile * unit.grad_tile_stride;  // (panels, tile rows, kPanel)
    for (int tap_block = 0; tap_block < geometry.tap_blocks(); ++tap_block) {
      const int tap_begin = tap_block * kTapBlock;
      const int tap_end =
          tap_begin + kTapBlock < geometry.taps() ? tap_begin + kTapBlock : geometry.taps();
      const int depth = (tap_end - tap_begin) * kChannelBlock;
      const int64_t block_elements = int64_t(panels) * kColumn * kPanel<T>;
      if (input_needed || points_needed) {
        const T* weight = unit.weight + tap_block * block_elements;
        for (int k = 0; k < depth;
             k += kPanel<T>, weight += int64_t(panels) * kPanel<T> * kPanel<T>) {
          for (int row = 0; row < count; row += kRows) {
            multiply<T, kPanel<T>, 1>(grad + row * kPanel<T>, panel_stride, panels, kPanel<T>,
                                      weight, grad_columns + int64_t(row) * kColumn + k, kColumn,
                                      false);
          }
        }
      }
      sample(geometry, unit, tap_begin, tap_end, begin, count, grad_columns, columns);
      if (columns_needed) {
        T* grad_weight = unit.grad_weight + tap_block * block_elements;
        for (int k = 0; k < depth; k += kRows) {
          for (int panel = 0; panel < panels; ++panel) {
            multiply<T, 1, kColumn>(columns + k, 0, 1, count, grad + panel * panel_stride,
                                    grad_weight + (int64_t(panel) * kColumn + k) * kPanel<T>,
                                    kPanel<T>, true);
          }
        }
      }
    }
  }
}
