// Forward of deform_conv2d on the CPU: included inside a namespace of its own by instance.h.
// A tile of positions is sampled into columns that stay in the cache, a block of channels at a
// time, and multiplied at once.

template <typename T>
void pack_input(const View<const T>& input, const ChannelBlock& block, int64_t pixels, T* plane) {
  constexpr int64_t kRun = 64;  // pixels whose rows of the plane stay in the first-level cache
  const T* from = input.data + block.channel * input.channel_stride;
  for (int64_t begin = 0; begin < pixels; begin += kRun) {
    const int64_t end = begin + kRun < pixels ? begin + kRun : pixels;
    for (int c = 0; c < block.channels; ++c) {
      const T* source = from + c * input.channel_stride + begin * input.pixel_stride;
      T* to = plane + begin * kChannelBlock + c;
      if (input.pixel_stride == 1) {
        for (int64_t p = 0; p < end - begin; ++p) to[p * kChannelBlock] = source[p];
      } else {
        for (int64_t p = 0; p < end - begin; ++p)
          to[p * kChannelBlock] = source[p * input.pixel_stride];
      }
    }
    for (int c = block.channels; c < kChannelBlock; ++c) {
      for (int64_t p = begin; p < end; ++p) plane[p * kChannelBlock + c] = T(0);
    }
  }
  for (int c = 0; c < kChannelBlock; ++c) plane[pixels * kChannelBlock + c] = T(0);
}

template <typename T>
T sigmoid(T value) {
  if constexpr (sizeof(T) == 4) {
    return T(1) / (T(1) + __builtin_expf(-value));
  } else {
    return T(1) / (T(1) + __builtin_exp(-value));
  }
}

// Where taps [tap_begin, tap_end) sample for `count` positions; samples (taps, count), taps
// `tap_stride` apart.
template <typename T>
void locate(const Geometry& geometry, const Map<T>& map, int offset_group, int tap_begin,
            int tap_end, int position_begin, int count, Sample<T>* samples, int64_t tap_stride) {
  const int outside = map.pixels();
  for (int tap = tap_begin; tap < tap_end; ++tap, samples += tap_stride) {
    const int tap_y = tap / geometry.kernel_w * geometry.dilation_h - geometry.pad_h;
    const int tap_x = tap % geometry.kernel_w * geometry.dilation_w - geometry.pad_w;
    const int64_t channel = int64_t(offset_group) * geometry.taps() + tap;
    const T* dy = map.offset.data + 2 * channel * map.offset.channel_stride;
    const T* dx = dy + map.offset.channel_stride;
    const T* mask =
        map.mask.data == nullptr ? nullptr : map.mask.data + channel * map.mask.channel_stride;
    int oy = position_begin / map.out_width, ox = position_begin % map.out_width;
    for (int i = 0; i < count; ++i) {
      const int64_t at = (position_begin + i) * map.offset.pixel_stride;
      const BilinearPoint<T> point = bilinear_point(T(oy * geometry.stride_h + tap_y) + dy[at],
                                                    T(ox * geometry.stride_w + tap_x) + dx[at],
                                                    map.height, map.width, outside);
      Sample<T>& sample = samples[i];
      sample.ly = point.ly;
      sample.lx = point.lx;
      for (int k = 0; k < 4; ++k) sample.corner[k] = point.corner[k];
      sample.mask = T(1);
      if (mask != nullptr) {
        sample.mask = mask[(position_begin + i) * map.mask.pixel_stride];
        if (geometry.mask_is_logit) sample.mask = sigmoid(sample.mask);
      }
      bilinear_weights(sample.ly, sample.lx, sample.mask, sample.weight);
      if (++ox == map.out_width) ox = 0, ++oy;
    }
  }
}

// Row of a plane for a corner. The empty statement keeps the index in a general register: GCC would
// compute the four addresses in one vector and then take it apart.
template <typename T>
FA_HOST_DEVICE T* row_of(T* plane, int32_t corner) {
  int64_t row = corner;
  asm("" : "+r"(row));
  return plane + row * kChannelBlock;
}

// columns (count, kColumn): the masked samples of all taps, the channels of a tap side by side.
template <typename T>
void gather(const T* plane, const Sample<T>* samples, int64_t tap_stride, int taps, int count,
            T* columns) {
  for (int p = 0; p < count; ++p) {
    T* to = columns + p * kColumn;
    for (int t = 0; t < taps; ++t, to += kChannelBlock) {
      const Sample<T>& sample = samples[t * tap_stride + p];
      const T* row0 = row_of(plane, sample.corner[0]);
      const T* row1 = row_of(plane, sample.corner[1]);
      const T* row2 = row_of(plane, sample.corner[2]);
      const T* row3 = row_of(plane, sample.corner[3]);
#pragma GCC unroll 16
      for (int c = 0; c < kChannelBlock; c += kLanes<T>) {
        const Vector<T> upper =
            sample.weight[0] * load(row0 + c) + sample.weight[1] * load(row1 + c);
        const Vector<T> lower =
            sample.weight[2] * load(row2 + c) + sample.weight[3] * load(row3 + c);
        store(to + c, upper + lower);
      }
    }
  }
}

// Adds the bias and writes sums (panels, rows, kPanel) to the outputs [first, first + outputs) of
// the map.
template <typename T>
void write_output(const Map<T>& map, int begin, int count, int rows, int first, int outputs,
                  const T* sums, const T* bias) {
  for (int o = 0; o < outputs; ++o) {
    const T* from = sums + int64_t(o / kPanel<T>) * rows * kPanel<T> + o % kPanel<T>;
    const T shift = bias == nullptr ? T(0) : bias[first + o];
    T* to =
        map.output.data + (first + o) * map.output.channel_stride + begin * map.output.pixel_stride;
    if (map.output.pixel_stride == 1) {
      for (int p = 0; p < count; ++p) to[p] = from[p * kPanel<T>] + shift;
    } else {
      for (int p = 0; p < count; ++p) to[p * map.output.pixel_stride] = from[p * kPanel<T>] + shift;
    }
  }
}

template <typename T>
void forward_tile(const Geometry& geometry, const Map<T>& map, const ChannelBlock* blocks,
                  int num_blocks, const T* const* planes, const T* weight, const T* bias, int tile,
                  T* scratch) {
  const int begin = map.tile_begin(tile), count = map.tile_count(tile);
  const int rows = (count + kRows - 1) / kRows * kRows;
  const int outputs = geometry.group_outputs();
  const int panels = (outputs + kPanel<T> - 1) / kPanel<T>;
  T* columns = scratch;                          // (rows, kColumn)
  T* sums = columns + int64_t(kTile) * kColumn;  // (panels, rows, kPanel)
  Sample<T>* samples =
      reinterpret_cast<Sample<T>*>(sums + int64_t(kTile) * panels * kPanel<T>);  // (taps, count)
  int located_group = -1, located_tap = -1;
  for (int b = 0; b < num_blocks; ++b) {
    const ChannelBlock& block = blocks[b];
    const bool first_of_group = b == 0 || blocks[b - 1].group != block.group;
    for (int tap_block = 0; tap_block < geometry.tap_blocks(); ++tap_block) {
      const int tap_begin = tap_block * kTapBlock;
      const int tap_end =
          tap_begin + kTapBlock < geometry.taps() ? tap_begin + kTapBlock : geometry.taps();
      if (located_group != block.offset_group || located_tap != tap_begin) {
        locate(geometry, map, block.offset_group, tap_begin, tap_end, begin, count, samples, kTile);
        located_group = block.offset_group;
        located_tap = tap_begin;
      }
      gather(planes[b], samples, kTile, tap_end - tap_begin, count, columns);
      const int depth = (tap_end - tap_begin) * kChannelBlock;
      const bool add = !(first_of_group && tap_block == 0);
      const T* block_weight =
          weight + (int64_t(b) * geometry.tap_blocks() + tap_block) * panels * kColumn * kPanel<T>;
      for (int panel = 0; panel < panels; ++panel) {
        const T* panel_weight = block_weight + int64_t(panel) * kColumn * kPanel<T>;
        T* panel_sums = sums + int64_t(panel) * rows * kPanel<T>;
        for (int row = 0; row < rows; row += kRows) {
          multiply<T, kColumn, 1>(columns + row * kColumn, 0, 1, depth, panel_weight,
                                  panel_sums + row * kPanel<T>, kPanel<T>, add);
        }
      }
    }
    if (b + 1 == num_blocks || blocks[b + 1].group != block.group) {
      write_output(map, begin, count, rows, block.group * outputs, outputs, sums, bias);
    }
  }
}
