// The loss's loops over one chunk, last part: gradients of the pairs (box, location), and all of
// them together.

// Of the positive loss and the prior term, for the locations of one claim.
template <typename V, typename S>
void claim_gradients(const Work<S>& work, const Chunk& chunk, int64_t c, S* grad_h, S* scratch) {
  typedef Lanes<V> L;
  using std::exp;
  using std::sqrt;
  const Level<S>& level = work.levels[chunk.level];
  const Claim& claim = work.claims[c];
  const Box<S>& box = work.boxes[claim.box];
  const BoxStatistics& statistics = work.statistics[claim.box];
  const BoxFactors& factors = work.factors[claim.box];
  const Gaussian<S> gaussian = gaussian_of(work, box, chunk.level);
  const int64_t stride = padded_cells(level, chunk);
  Cells<S> cells(scratch, stride);
  S *by_cls = scratch + 9 * stride, *by_h = scratch + 10 * stride, *by_box = scratch + 11 * stride;
  gather(&cells, work, chunk, claim);

  const bool clamped = statistics.bag_weight < 1e-12;
  const double bag_weight = clamp_min(statistics.bag_weight, 1e-12);
  const V bag = V(S(clamped ? 0 : statistics.bag_confidence / bag_weight));
  const V factor = V(S(factors.bag / bag_weight)), prior = V(S(factors.prior)), zero(0);
  V dx(0), dy(0), dx2(0), dy2(0);
  for (int64_t i = 0; i < cells.count; i += L::kCount) {
    const PairQuality<V> pair = pair_at<V>(cells, i, box, gaussian, work.options);
    const V exponential = factor * exp(V(3) * pair.confidence);
    const V excess = pair.confidence - bag;
    const V by_confidence = exponential * pair.gaussian * (V(1) + V(3) * excess);
    V q_slope, r_slope;
    confidence_gradient(pair, work.options.feature_filter, &q_slope, &r_slope);
    const V by_q = by_confidence * q_slope;
    L::store(by_cls + i, by_q * pair.h * ((V(1) - pair.p) * pair.p));
    L::store(by_h + i, by_q * pair.p);
    const Ltrb<V> by_side = regression_quality_gradient(
        prediction_at<V>(cells, i), pair.target, pair.overlap, work.options.iou_type,
        V(S(work.options.reg_weight)), pair.r, by_confidence * r_slope);
    L::store(by_box + i, by_side.l);
    L::store(by_box + stride + i, by_side.t);
    L::store(by_box + 2 * stride + i, by_side.r);
    L::store(by_box + 3 * stride + i, by_side.b);

    V by_prior = prior;
    if (work.options.quality_prior) {
      const V v =
          prior_weight<V, S>(pair.joint, S(statistics.lowest_joint), S(statistics.highest_joint));
      const V vn = v * pair.gaussian;
      by_prior = select(vn < V(1e-12), zero, prior * V(0.5) * v / sqrt(clamp_min(vn, V(1e-12))));
    }
    const V by_exponent = select(L::first(int(cells.count - i)),
                                 (exponential * excess + by_prior) * pair.gaussian, zero);
    const V ex = by_exponent * pair.dx, ey = by_exponent * pair.dy;
    dx = dx + ex, dy = dy + ey, dx2 = dx2 + ex * pair.dx, dy2 = dy2 + ey * pair.dy;
  }
  work.claim_gradients[c] = {L::sum(dx), L::sum(dy), L::sum(dx2), L::sum(dy2)};

  const int64_t area = level.height * level.width, n = claim.x1 - claim.x0;
  S* cls = level.grad_cls + (chunk.image * work.classes + box.cls) * area;
  S* side = level.grad_box + chunk.image * 4 * area;
  for (int64_t y = claim.y0, from = 0; y < claim.y1; ++y, from += n) {
    const int64_t at = y * level.width + claim.x0;
    add(cls + at, by_cls + from, n);
    add(grad_h + at - chunk.first_row * level.width, by_h + from, n);
    for (int64_t k = 0; k < 4; ++k) add(side + k * area + at, by_box + k * stride + from, n);
  }
}

// From the negative loss's gradients to those of all losses.
template <typename V, typename S>
void gradients_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  typedef Lanes<V> L;
  const Level<S>& level = work.levels[chunk.level];
  const int64_t area = level.height * level.width, at = chunk.first_row * level.width;
  const int64_t count = (chunk.last_row - chunk.first_row) * level.width;
  const int64_t stride = count + kScratchPadding;
  const S scale = S(work.negative_scale);
  S *h = scratch, *grad_h = scratch + stride;
  S* grad_obj = level.grad_obj + chunk.image * area + at;
  objectness<V>(level.obj + chunk.image * area + at, count, h);
  for (int64_t i = 0; i < count; ++i) grad_h[i] = scale * grad_obj[i];
  fill(grad_h + count, S(0), kScratchPadding);
  if (scale != 1) {
    S* grad_cls = level.grad_cls + chunk.image * work.classes * area + at;
    for (int64_t c = 0; c < work.classes; ++c) {
      for (int64_t i = 0; i < count; ++i) grad_cls[c * area + i] *= scale;
    }
  }
  for (int64_t k = 0; k < 4; ++k) {
    fill(level.grad_box + (chunk.image * 4 + k) * area + at, S(0), count);
  }
  for (int64_t c = chunk.first_claim; c < chunk.last_claim; ++c) {
    claim_gradients<V>(work, chunk, c, grad_h, scratch + 2 * stride);
  }
  for (int64_t i = 0; i < count; i += L::kCount) {
    const V p = L::load(h + i);
    L::store_some(grad_obj + i, L::load(grad_h + i) * ((V(1) - p) * p),
                  int(count - i < L::kCount ? count - i : L::kCount));
  }
}

template <bool kGradient, typename V, typename S>
double negative_either(const Work<S>& work, const Chunk& chunk, S* scratch) {
  return work.options.focal_gamma == 2 ? negative_step<true, kGradient, V>(work, chunk, scratch)
                                       : negative_step<false, kGradient, V>(work, chunk, scratch);
}

template <typename V, typename S>
constexpr Steps<S> kSteps = {statistics_step<V, S>, prior_roots_step<V, S>,
                             negative_either<false, V, S>, negative_either<true, V, S>,
                             gradients_step<V, S>};
