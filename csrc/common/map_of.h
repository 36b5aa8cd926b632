// Maps (map.h) of tensors.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "common/map.h"

namespace fa {

inline bool is_channels_last(const at::Tensor& x) {
  return !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
}

// How (N, C, H, W) lies in memory, contiguous or channels_last, around its data.
template <typename T>
Map<T> map_around(T* data, const at::Tensor& x) {
  const int64_t channels = x.size(1), area = x.size(2) * x.size(3);
  const bool last = is_channels_last(x);
  return {data, channels * area, static_cast<int32_t>(last ? 1 : area),
          static_cast<int32_t>(last ? channels : 1)};
}

// Other layouts are copied. Into `kept` comes what it points into.
template <typename S>
Map<const S> map_of(const at::Tensor& x, std::vector<at::Tensor>* kept) {
  kept->push_back(is_channels_last(x) ? x : x.contiguous());
  return map_around(kept->back().const_data_ptr<S>(), kept->back());
}

}  // namespace fa
