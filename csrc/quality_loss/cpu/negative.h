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

// Of one vector of locations: returns the focal terms; with kGradient also the gradients of
// factor * terms, by the logits into *grad and by h added to grad_h. The spare lanes of the last
// vector have h = 0.
template <bool kSquare, bool kWeighted, bool kGradient, typename V, typename S>
FA_HOST_DEVICE V focal_vector(V logits, const S* h, const S* weights, double gamma, S factor,
                              V* grad, S* grad_h) {
  typedef Lanes<V> L;
  const V p = bounded_sigmoid(logits);  // e^-88 and less are alike in any sum
  const V weighted = kWeighted ? p * L::load(weights) : p, n = weighted * L::load(h);
  V by_n;
  const V term = focal<kSquare, kGradient>(n, gamma, &by_n);
  if (kGradient) {
    by_n = V(factor) * by_n;
    L::store(grad_h, L::load(grad_h) + by_n * weighted);
    *grad = by_n * (n * (V(1) - p));
  }
  return term;
}

// The same of a row of locations; returns the sum of its focal terms. `ahead`: from a row to the
// next class's, which is fetched meanwhile; the processor's own prefetching ends with the row.
// weights is null where not kWeighted.
template <bool kSquare, bool kWeighted, bool kGradient, typename V, typename S>
FA_HOST_DEVICE double focal_row(const S* logits, const S* h, const S* weights, int64_t count,
                                double gamma, S factor, S* grad_logits, S* grad_h, int64_t ahead) {
  typedef Lanes<V> L;
  typedef typename L::Wide W;
  constexpr int kWide = Lanes<W>::kCount;
  W wide(0), wide_grad;
  V total(0), grad;
  int64_t i = 0;
  for (; i + kWide <= count; i += kWide) {
    for (int64_t k = 0; k < kWide; k += 64 / int64_t(sizeof(S))) {
      __builtin_prefetch(logits + ahead + i + k);
      if (kGradient) __builtin_prefetch(grad_logits + ahead + i + k, 1);
    }
    wide = wide + focal_vector<kSquare, kWeighted, kGradient>(
                      Lanes<W>::load(logits + i), h + i, kWeighted ? weights + i : weights, gamma,
                      factor, &wide_grad, grad_h + i);
    if (kGradient) Lanes<W>::store(grad_logits + i, wide_grad);
  }
  for (; i < count; i += L::kCount) {
    const int some = int(count - i < L::kCount ? count - i : L::kCount);
    total = total + focal_vector<kSquare, kWeighted, kGradient>(
                        L::load_some(logits + i, some, S(0)), h + i,
                        kWeighted ? weights + i : weights, gamma, factor, &grad, grad_h + i);
    if (kGradient) L::store_some(grad_logits + i, grad, some);
  }
  return Lanes<W>::sum(wide) + L::sum(total);
}

template <bool kSquare, bool kGradient, typename V, typename S>
double negative_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  [[maybe_unused]] const FlushDenormals flush;
  const Level<S>& level = work.levels[chunk.level];
  const int64_t area = level.height * level.width, at = chunk.first_row * level.width;
  const int64_t count = (chunk.last_row - chunk.first_row) * level.width;
  const int64_t stride = count + kScratchPadding;
  S *h = scratch, *weights = scratch + stride, *grad_h = scratch + 2 * stride;
  objectness<V>(level.obj + chunk.image * area + at, count, h);
  fill(weights + count, S(1), kScratchPadding);
  fill(grad_h, S(0), stride);
  const int64_t first = chunk.image * work.classes * area + at;
  const double gamma = work.options.focal_gamma;
  const S factor = S(work.negative_factor);
  double total = 0;
  for_each_class<V>(work, chunk, weights, [&](int64_t c, const S* w) FA_INLINE_LAMBDA {
    const S* cls = level.cls + first + c * area;
    const int64_t ahead = c + 1 < work.classes ? area : 0;
    S* grad = kGradient ? level.grad_cls + first + c * area : nullptr;
    total += w == nullptr ? focal_row<kSquare, false, kGradient, V>(cls, h, w, count, gamma, factor,
                                                                    grad, grad_h, ahead)
                          : focal_row<kSquare, true, kGradient, V>(cls, h, w, count, gamma, factor,
                                                                   grad, grad_h, ahead);
  });
  if (kGradient) copy(level.grad_obj + chunk.image * area + at, grad_h, count);
  return total;
}
