// The loss's loops over one chunk, third part: the dense pass over all locations and classes.

// Vectors of small floats are slow on their way through denormals; only here, and put back after.
struct FlushDenormals {
#if defined(__x86_64__)
  unsigned saved;
  FA_INLINE FlushDenormals() : saved(_mm_getcsr()) { _mm_setcsr(saved | 0x8040); }
  FA_INLINE ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

// Calls row(class, weights or null) for each class; the weights are 1 - M in the chunk's rows, null
// where M = 0. Claims run in the order of their boxes: the last box of a class wins.
template <typename V, typename S, typename Row>
FA_HOST_DEVICE void for_each_class(const Work<S>& work, const Chunk& chunk, S* weights,
                                   const Row& row) {
  typedef Lanes<V> L;
  const Level<S>& level = work.levels[chunk.level];
  const int64_t width = level.width;
  const S* iou = work.max_iou + chunk.image * work.locations + level.first;
  int64_t next = chunk.first_claim;
  for (int64_t cls = 0; cls < work.classes; ++cls) {
    bool weighted = false;
    for (; next < chunk.last_claim; ++next) {
      const Claim& claim = work.claims[work.by_class[next]];
      if (work.boxes[claim.box].cls != cls) break;
      if (!weighted) fill(weights, S(1), (chunk.last_row - chunk.first_row) * width);
      weighted = true;
      const BoxStatistics& box = work.statistics[claim.box];
      for (int64_t y = claim.y0; y < claim.y1; ++y) {
        S* to = weights + (y - chunk.first_row) * width;
        for (int64_t x = claim.x0; x < claim.x1; x += L::kCount) {
          const int some = int(claim.x1 - x < L::kCount ? claim.x1 - x : L::kCount);
          const V value = negative_weight<V, S>(L::load_some(iou + y * width + x, some, S(0)),
                                                S(box.lowest_iou), S(box.highest_iou));
          L::store_some(to + x, value, some);
        }
      }
    }
    row(cls, weighted ? weights : nullptr);
  }
}

template <typename V, typename S>
FA_HOST_DEVICE void objectness(const S* logits, int64_t count, S* h) {
  typedef Lanes<V> L;
  for (int64_t i = 0; i < count; i += L::kCount) {
    const int some = int(count - i < L::kCount ? count - i : L::kCount);
    L::store_some(h + i, sigmoid(L::load_some(logits + i, some, S(0))), some);
  }
  fill(h + count, S(0), kScratchPadding);  // spare lanes: q = 0
}

template <bool kSquare, bool kWeighted, typename V, typename S>
FA_HOST_DEVICE double focal_row(const S* logits, const S* h, const S* weights, int64_t count,
                                double gamma) {
  typedef Lanes<V> L;
  V total(0);
  for (int64_t i = 0; i < count; i += L::kCount) {
    const V x = count - i < L::kCount ? L::load_some(logits + i, int(count - i), S(0))
                                      : L::load(logits + i);
    V n = sigmoid(x) * L::load(h + i);
    if (kWeighted) n = n * L::load(weights + i);
    total = total + focal_term<kSquare>(n, gamma);
  }
  return L::sum(total);
}

template <bool kSquare, typename V, typename S>
double negative_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  const FlushDenormals flush;
  const Level<S>& level = work.levels[chunk.level];
  const int64_t area = level.height * level.width, at = chunk.first_row * level.width;
  const int64_t count = (chunk.last_row - chunk.first_row) * level.width;
  const int64_t stride = count + kScratchPadding;
  S *h = scratch, *weights = scratch + stride;
  objectness<V>(level.obj + chunk.image * area + at, count, h);
  fill(weights + count, S(1), kScratchPadding);
  const S* cls = level.cls + chunk.image * work.classes * area + at;
  const double gamma = work.options.focal_gamma;
  double total = 0;
  for_each_class<V>(work, chunk, weights, [&](int64_t c, const S* w) FA_INLINE_LAMBDA {
    total += w == nullptr ? focal_row<kSquare, false, V>(cls + c * area, h, w, count, gamma)
                          : focal_row<kSquare, true, V>(cls + c * area, h, w, count, gamma);
  });
  return total;
}

// grad_h gathers dneg/dh, h = sigmoid(objectness logit).
template <bool kSquare, bool kWeighted, typename V, typename S>
FA_HOST_DEVICE void focal_row_gradient(const S* logits, const S* h, const S* weights, int64_t count,
                                       double gamma, S factor, S* grad_logits, S* grad_h) {
  typedef Lanes<V> L;
  for (int64_t i = 0; i < count; i += L::kCount) {
    const bool whole = count - i >= L::kCount;
    const V x = whole ? L::load(logits + i) : L::load_some(logits + i, int(count - i), S(0));
    const V p = sigmoid(x), o = L::load(h + i), w = kWeighted ? L::load(weights + i) : V(1);
    V n = p * o, slope = V(factor);
    if (kWeighted) n = n * w, slope = slope * w;
    const V by_q = slope * focal_slope<kSquare>(n, gamma);
    const V grad = by_q * o * ((V(1) - p) * p);
    L::store(grad_h + i, L::load(grad_h + i) + by_q * p);
    if (whole) {
      L::store(grad_logits + i, grad);
    } else {
      L::store_some(grad_logits + i, grad, int(count - i));
    }
  }
}
