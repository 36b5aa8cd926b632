// The best (location, class) pairs of one level, for decode_detections.
//
// The scores are not computed for all pairs: a pair can only matter where its class logit reaches a
// bound that follows from the location's objectness and from the best candidates found so far. The
// dense pass compares logits, and reads them once.
#pragma once

#if defined(__x86_64__)
#include <emmintrin.h>  // SSE2: every x86-64 has it
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "decode/math.h"

namespace fa {
namespace decode {

template <typename S>
struct Level {
  int64_t height, width;
  S stride;
  const S* cls;   // (N, K, H, W) logits
  const S* box;   // (N, 4, H, W) pixels
  const S* obj;   // (N, 1, H, W) logits
  int64_t limit;  // candidates that it may pass on
};

template <typename S>
struct Candidate {
  S score;
  int64_t index;  // location * K + class
};

struct Better {  // a type, not a function: the sorts inline it
  template <typename S>
  bool operator()(const Candidate<S>& a, const Candidate<S>& b) const {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
  }
};

// exp and log to about 5e-6, in few steps that the compiler turns into vector code.
inline float rough_exp(float x) {
  const float bounded = x < -80.f ? -80.f : (x <= 80.f ? x : 80.f);
  const float shifted = bounded * 1.442695f + 12582912.f;  // + 1.5 * 2^23 rounds to a whole number
  const float whole = shifted - 12582912.f, r = bounded - whole * 0.6931472f;
  const float y = 1.f + r * (1.f + r * (0.5f + r * (1 / 6.f + r * (1 / 24.f + r * (1 / 120.f)))));
  int32_t bits;
  std::memcpy(&bits, &y, 4);
  bits += static_cast<int32_t>(whole) * (1 << 23);
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline float rough_log(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t exponent =
      (bits - 0x3f3504f3) >> 23;  // x = 2^exponent m, m in [sqrt(1/2), sqrt(2))
  bits -= exponent * (1 << 23);
  float m;
  std::memcpy(&m, &bits, 4);
  const float s = (m - 1.f) / (m + 1.f), z = s * s;
  return static_cast<float>(exponent) * 0.6931472f + 2.f * s * (1.f + z * (1 / 3.f + z * 0.2f));
}

// lowest_logit() of each location; -infinity where every score counts.
template <typename S>
void lowest_logits(const S* objectness_logits, int64_t count, double score, S* lowest) {
  if (score <= 0) {
    std::fill(lowest, lowest + count, -std::numeric_limits<S>::infinity());
    return;
  }
  const float least = static_cast<float>(score) * (1 - kLogitSlack);
  const float log_least = std::log(least) - kLogitSlack;
  for (int64_t i = 0; i < count; ++i) {
    const float h = 1.f / (1.f + rough_exp(-static_cast<float>(objectness_logits[i])));
    lowest[i] = S(lowest_logit(h, least, log_least, rough_log));
  }
}

// Bit i: logits[i] >= lowest[i], for 16 of them.
template <typename S>
uint32_t reached(const S* logits, const S* lowest) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= uint32_t(logits[i] >= lowest[i]) << i;
  return mask;
}

#if defined(__x86_64__)
inline uint32_t reached(const float* logits, const float* lowest) {
  const auto compare = [&](int i) {
    return _mm_castps_si128(_mm_cmpge_ps(_mm_loadu_ps(logits + i), _mm_loadu_ps(lowest + i)));
  };
  const __m128i low = _mm_packs_epi32(compare(0), compare(4));
  const __m128i high = _mm_packs_epi32(compare(8), compare(12));
  return _mm_movemask_epi8(_mm_packs_epi16(low, high));
}
#endif

// The best candidates of a part of one level's locations, in any order.
template <typename S>
class Selection {
 public:
  // bound: the score that the level's limit-th best candidate is known to have, shared by its
  // parts.
  Selection(const Level<S>& level, int64_t image, int64_t classes, S threshold,
            std::atomic<S>* bound)
      : level_(level), classes_(classes), threshold_(threshold), bound_(bound) {
    const int64_t area = level.height * level.width;
    cls_ = level.cls + image * classes * area;
    obj_ = level.obj + image * area;
  }

  void add(int64_t begin, int64_t end) {
    constexpr int64_t kPart = 1024;
    for (int64_t part = begin; part < end; part += kPart) {
      add_part(part, std::min(end, part + kPart));
    }
  }

  std::vector<Candidate<S>>& finish() {
    trim();
    return found_;
  }

 private:
  void add_part(int64_t begin, int64_t end) {
    const int64_t count = end - begin, area = level_.height * level_.width;
    lowest_.resize(count);
    find_lowest(begin);
    for (int64_t c = 0; c < classes_; ++c) {
      const S* logits = cls_ + c * area + begin;
      if (used_ != bound_->load(std::memory_order_relaxed)) find_lowest(begin);
      int64_t i = 0;
      for (; i + 16 <= count; i += 16) {
        for (uint32_t mask = reached(logits + i, lowest_.data() + i); mask != 0; mask &= mask - 1) {
          const int64_t at = i + __builtin_ctz(mask);
          add_one(begin + at, c, logits[at]);
        }
      }
      for (; i < count; ++i) {
        if (logits[i] >= lowest_[i]) add_one(begin + i, c, logits[i]);
      }
    }
  }

  void add_one(int64_t location, int64_t c, S logit) {
    const S score = exact_sigmoid(logit) * exact_sigmoid(obj_[location]);
    if (!(score > threshold_) || score < used_) return;
    found_.push_back({score, location * classes_ + c});
    if (static_cast<int64_t>(found_.size()) >= 2 * level_.limit + 64) trim();
  }

  // Keeps the best `limit`, and raises the bound to the worst of them.
  void trim() {
    if (static_cast<int64_t>(found_.size()) <= level_.limit) return;
    const auto last = found_.begin() + (level_.limit - 1);
    std::nth_element(found_.begin(), last, found_.end(), Better());
    const S worst = last->score;
    found_.resize(level_.limit);
    S known = bound_->load();
    while (known < worst && !bound_->compare_exchange_weak(known, worst)) {
    }
  }

  void find_lowest(int64_t begin) {
    used_ = bound_->load(std::memory_order_relaxed);
    lowest_logits(obj_ + begin, static_cast<int64_t>(lowest_.size()), std::max(used_, threshold_),
                  lowest_.data());
  }

  const Level<S>& level_;
  const int64_t classes_;
  const S threshold_;
  std::atomic<S>* bound_;
  S used_ = 0;  // the bound behind lowest_
  const S* cls_;
  const S* obj_;
  std::vector<S> lowest_;  // of the locations of one part
  std::vector<Candidate<S>> found_;
};

}  // namespace decode
}  // namespace fa
