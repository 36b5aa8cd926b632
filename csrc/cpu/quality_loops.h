// The loops of the quality-weighted loss over one chunk (see quality_steps.h). Included once in
// each of the quality_<instruction set>.cpp, after quality_vector.h. V is Vector (floats) or
// double.

constexpr int64_t kIouBlock = 64;  // locations whose predictions are tested together

// The inputs of the locations of one claim, packed: rows of a few cells still fill whole vectors.
template <typename S>
struct Cells {
  int64_t count;
  S *cls, *obj, *l, *t, *r, *b, *x, *y, *iou;

  Cells(S* scratch, int64_t stride)
      : count(0),
        cls(scratch),
        obj(scratch + stride),
        l(scratch + 2 * stride),
        t(scratch + 3 * stride),
        r(scratch + 4 * stride),
        b(scratch + 5 * stride),
        x(scratch + 6 * stride),
        y(scratch + 7 * stride),
        iou(scratch + 8 * stride) {}

  // Benign values behind the last cell, for the last vector's spare lanes.
  FA_HD void pad(S pad_x, S pad_y) {
    for (int64_t i = count; i < count + kScratchPadding; ++i) {
      cls[i] = obj[i] = iou[i] = 0;
      l[i] = t[i] = r[i] = b[i] = 1;
      x[i] = pad_x;
      y[i] = pad_y;
    }
  }
};

template <typename S>
FA_HD int64_t padded_cells(const Level<S>& level, const Chunk& chunk) {
  return (chunk.last_row - chunk.first_row) * level.width + kScratchPadding;
}

template <typename S>
FA_HD void copy(S* to, const S* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <typename S>
FA_HD void add(S* to, const S* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <typename S>
FA_HD void fill(S* to, S value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

template <typename S>
FA_HD S coordinate(int64_t cell, const Level<S>& level, S offset) {
  return (S(cell) + offset) * level.stride;
}

// One row's predictions and coordinates to the end of `cells`; plane: the image's (4, H, W).
template <typename S>
FA_HD void append(Cells<S>* cells, const Level<S>& level, const S* plane, int64_t row, int64_t x0,
                  int64_t x1, S offset) {
  const int64_t at = row * level.width + x0, step = level.height * level.width, n = x1 - x0;
  const int64_t to = cells->count;
  copy(cells->l + to, plane + at, n);
  copy(cells->t + to, plane + step + at, n);
  copy(cells->r + to, plane + 2 * step + at, n);
  copy(cells->b + to, plane + 3 * step + at, n);
  const S y = coordinate(row, level, offset);
  for (int64_t i = 0; i < n; ++i) {
    cells->x[to + i] = coordinate(x0 + i, level, offset);
    cells->y[to + i] = y;
  }
  cells->count += n;
}

template <typename S>
void gather(Cells<S>* cells, const Work<S>& work, const Chunk& chunk, const Claim& claim) {
  const Level<S>& level = work.levels[chunk.level];
  const Box<S>& box = work.boxes[claim.box];
  const int64_t area = level.height * level.width, n = claim.x1 - claim.x0;
  const S* cls = level.cls + (chunk.image * work.classes + box.cls) * area;
  const S* obj = level.obj + chunk.image * area;
  const S* iou = work.max_iou + chunk.image * work.locations + level.first;
  cells->count = 0;
  for (int64_t row = claim.y0; row < claim.y1; ++row) {
    const int64_t at = row * level.width + claim.x0;
    copy(cells->cls + cells->count, cls + at, n);
    copy(cells->obj + cells->count, obj + at, n);
    copy(cells->iou + cells->count, iou + at, n);
    append(cells, level, level.box + chunk.image * 4 * area, row, claim.x0, claim.x1,
           S(work.options.location_offset));
  }
  cells->pad(box.x1, box.y1);
}

template <typename V, typename S>
FA_HD Ltrb<V> prediction_at(const Cells<S>& cells, int64_t i) {
  typedef Lanes<V> L;
  return {L::load(cells.l + i), L::load(cells.t + i), L::load(cells.r + i), L::load(cells.b + i)};
}

template <typename V, typename S>
FA_HD PairQuality<V> pair_at(const Cells<S>& cells, int64_t i, const Box<S>& box,
                             const Gaussian<S>& gaussian, const QualityOptions& options) {
  typedef Lanes<V> L;
  return pair_quality<V, S>(L::load(cells.cls + i), L::load(cells.obj + i),
                            prediction_at<V>(cells, i), L::load(cells.x + i), L::load(cells.y + i),
                            box.x1, box.y1, box.x2, box.y2, gaussian, options);
}

template <typename S>
FA_HD Gaussian<S> gaussian_of(const Work<S>& work, const Box<S>& box, int64_t level) {
  const int64_t at = level * work.level_step + 2 * box.cls;
  return make_gaussian(box.x1, box.y1, box.x2, box.y2, work.levels[level].stride, work.mu + at,
                       work.sigma + at);
}

// ---- statistics

// The largest IoU of each packed prediction with any box of the image, into cells->iou. Boxes that
// no prediction of a block can touch are left out; the margin covers the rounding of coordinates.
template <typename V, typename S>
void find_max_iou(Cells<S>* cells, const Work<S>& work, int64_t image) {
  typedef Lanes<V> L;
  const S margin = 1;
  for (int64_t begin = 0; begin < cells->count; begin += kIouBlock) {
    const int64_t end = begin + kIouBlock < cells->count ? begin + kIouBlock : cells->count;
    S x1 = cells->x[begin] - cells->l[begin], x2 = cells->x[begin] + cells->r[begin];
    S y1 = cells->y[begin] - cells->t[begin], y2 = cells->y[begin] + cells->b[begin];
    for (int64_t i = begin + 1; i < end; ++i) {
      x1 = smaller(x1, cells->x[i] - cells->l[i]);
      y1 = smaller(y1, cells->y[i] - cells->t[i]);
      x2 = larger(x2, cells->x[i] + cells->r[i]);
      y2 = larger(y2, cells->y[i] + cells->b[i]);
    }
    x1 -= margin, y1 -= margin, x2 += margin, y2 += margin;
    for (int64_t g = work.image_boxes[image]; g < work.image_boxes[image + 1]; ++g) {
      const Box<S>& box = work.boxes[g];
      if (box.x2 < x1 || x2 < box.x1 || box.y2 < y1 || y2 < box.y1) continue;
      for (int64_t i = begin; i < end; i += L::kCount) {
        const V x = L::load(cells->x + i), y = L::load(cells->y + i),
                best = L::load(cells->iou + i);
        const Ltrb<V> target = {x - V(box.x1), y - V(box.y1), V(box.x2) - x, V(box.y2) - y};
        const V iou = overlap(prediction_at<V>(*cells, i), target).iou;
        L::store(cells->iou + i, select(iou <= best, best, iou));  // a NaN enters
      }
    }
  }
}

template <typename V, typename S>
void fill_max_iou(const Work<S>& work, const Chunk& chunk, S* scratch) {
  const Level<S>& level = work.levels[chunk.level];
  const int64_t width = level.width, stride = padded_cells(level, chunk);
  S* inside = scratch + 9 * stride;  // 1 on locations inside any box, in the chunk's rows
  fill(inside, S(0), stride);
  for (int64_t c = chunk.first_claim; c < chunk.last_claim; ++c) {
    const Claim& claim = work.claims[c];
    for (int64_t row = claim.y0; row < claim.y1; ++row) {
      fill(inside + (row - chunk.first_row) * width + claim.x0, S(1), claim.x1 - claim.x0);
    }
  }
  Cells<S> cells(scratch, stride);
  const S offset = S(work.options.location_offset);
  const S* plane = level.box + chunk.image * 4 * level.height * width;
  for (int64_t row = chunk.first_row; row < chunk.last_row; ++row) {
    const S* marks = inside + (row - chunk.first_row) * width;
    for (int64_t x0 = 0; x0 < width;) {
      while (x0 < width && marks[x0] == 0) ++x0;
      int64_t x1 = x0;
      while (x1 < width && marks[x1] != 0) ++x1;
      if (x0 < x1) append(&cells, level, plane, row, x0, x1, offset);
      x0 = x1;
    }
  }
  cells.pad(0, 0);
  fill(cells.iou, S(0), cells.count);
  find_max_iou<V>(&cells, work, chunk.image);
  S* iou = work.max_iou + chunk.image * work.locations + level.first + chunk.first_row * width;
  int64_t from = 0;
  for (int64_t i = 0; i < (chunk.last_row - chunk.first_row) * width; ++i) {
    if (inside[i] != 0) iou[i] = cells.iou[from++];
  }
}

template <typename V, typename S>
void statistics_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  typedef Lanes<V> L;
  using std::exp;
  if (chunk.first_claim == chunk.last_claim) return;
  fill_max_iou<V>(work, chunk, scratch);
  Cells<S> cells(scratch, padded_cells(work.levels[chunk.level], chunk));
  for (int64_t c = chunk.first_claim; c < chunk.last_claim; ++c) {
    const Box<S>& box = work.boxes[work.claims[c].box];
    const Gaussian<S> gaussian = gaussian_of(work, box, chunk.level);
    gather(&cells, work, chunk, work.claims[c]);
    const V zero(0), infinity(__builtin_inf());
    V weight(0), confidence(0), prior(0);
    V low_joint(infinity), high_joint(zero - infinity), low_iou(infinity),
        high_iou(zero - infinity);
    for (int64_t i = 0; i < cells.count; i += L::kCount) {
      const auto valid = L::first(int(cells.count - i));
      const PairQuality<V> pair = pair_at<V>(cells, i, box, gaussian, work.options);
      const V n = select(valid, pair.gaussian, zero);
      const V w = exp(V(3) * pair.confidence) * n;
      weight = weight + w;
      confidence = confidence + w * pair.confidence;
      prior = prior + n;
      low_joint = smaller(low_joint, select(valid, pair.joint, infinity));
      high_joint = larger(high_joint, select(valid, pair.joint, zero - infinity));
      const V iou = L::load(cells.iou + i);
      low_iou = smaller(low_iou, select(valid, iou, infinity));
      high_iou = larger(high_iou, select(valid, iou, zero - infinity));
    }
    BoxStatistics* out = work.claim_statistics + c;
    out->bag_weight = L::sum(weight);
    out->bag_confidence = L::sum(confidence);
    out->gaussian = L::sum(prior);
    out->prior_root = 0;
    out->count = double(cells.count);
    out->lowest_joint = L::lowest(low_joint), out->highest_joint = L::highest(high_joint);
    out->lowest_iou = L::lowest(low_iou), out->highest_iou = L::highest(high_iou);
  }
}

template <typename V, typename S>
FA_HD V weighted_prior(const PairQuality<V>& pair, const BoxStatistics& statistics) {
  return prior_weight<V, S>(pair.joint, S(statistics.lowest_joint), S(statistics.highest_joint)) *
         pair.gaussian;
}

template <typename V, typename S>
void prior_roots_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  typedef Lanes<V> L;
  using std::sqrt;
  Cells<S> cells(scratch, padded_cells(work.levels[chunk.level], chunk));
  for (int64_t c = chunk.first_claim; c < chunk.last_claim; ++c) {
    const int64_t g = work.claims[c].box;
    const Gaussian<S> gaussian = gaussian_of(work, work.boxes[g], chunk.level);
    gather(&cells, work, chunk, work.claims[c]);
    V total(0);
    for (int64_t i = 0; i < cells.count; i += L::kCount) {
      const PairQuality<V> pair = pair_at<V>(cells, i, work.boxes[g], gaussian, work.options);
      const V root = sqrt(clamp_min(weighted_prior<V, S>(pair, work.statistics[g]), V(1e-12)));
      total = total + select(L::first(int(cells.count - i)), root, V(0));
    }
    work.claim_statistics[c].prior_root = L::sum(total);
  }
}

// ---- the dense pass over all locations and classes

// Vectors of small floats are slow on their way through denormals; only here, and put back after.
struct FlushDenormals {
#if defined(__x86_64__)
  unsigned saved;
  FA_HD FlushDenormals() : saved(_mm_getcsr()) { _mm_setcsr(saved | 0x8040); }
  FA_HD ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

// Calls row(class, weights or null) for each class; the weights are 1 - M in the chunk's rows, null
// where M = 0. Claims run in the order of their boxes: the last box of a class wins.
template <typename V, typename S, typename Row>
FA_HD void for_each_class(const Work<S>& work, const Chunk& chunk, S* weights, const Row& row) {
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
FA_HD void objectness(const S* logits, int64_t count, S* h) {
  typedef Lanes<V> L;
  for (int64_t i = 0; i < count; i += L::kCount) {
    const int some = int(count - i < L::kCount ? count - i : L::kCount);
    L::store_some(h + i, sigmoid(L::load_some(logits + i, some, S(0))), some);
  }
  fill(h + count, S(0), kScratchPadding);  // spare lanes: q = 0
}

template <bool kSquare, bool kWeighted, typename V, typename S>
FA_HD double focal_row(const S* logits, const S* h, const S* weights, int64_t count, double gamma) {
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
FA_HD void focal_row_gradient(const S* logits, const S* h, const S* weights, int64_t count,
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

// ---- gradients

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

template <bool kSquare, typename V, typename S>
void gradients_step(const Work<S>& work, const Chunk& chunk, S* scratch) {
  typedef Lanes<V> L;
  const Level<S>& level = work.levels[chunk.level];
  const int64_t area = level.height * level.width, at = chunk.first_row * level.width;
  const int64_t count = (chunk.last_row - chunk.first_row) * level.width;
  const int64_t stride = count + kScratchPadding;
  S *h = scratch, *grad_h = scratch + stride, *weights = scratch + 2 * stride;
  objectness<V>(level.obj + chunk.image * area + at, count, h);
  fill(grad_h, S(0), stride);
  fill(weights + count, S(1), kScratchPadding);
  const S* cls = level.cls + chunk.image * work.classes * area + at;
  S* grad_cls = level.grad_cls + chunk.image * work.classes * area + at;
  const double gamma = work.options.focal_gamma;
  const S factor = S(work.negative_factor);
  {
    const FlushDenormals flush;
    for_each_class<V>(work, chunk, weights, [&](int64_t c, const S* w) FA_INLINE_LAMBDA {
      const int64_t plane = c * area;
      if (w == nullptr) {
        focal_row_gradient<kSquare, false, V>(cls + plane, h, w, count, gamma, factor,
                                              grad_cls + plane, grad_h);
      } else {
        focal_row_gradient<kSquare, true, V>(cls + plane, h, w, count, gamma, factor,
                                             grad_cls + plane, grad_h);
      }
    });
  }
  for (int64_t k = 0; k < 4; ++k) {
    fill(level.grad_box + (chunk.image * 4 + k) * area + at, S(0), count);
  }
  for (int64_t c = chunk.first_claim; c < chunk.last_claim; ++c) {
    claim_gradients<V>(work, chunk, c, grad_h, scratch + 2 * stride);
  }
  S* grad_obj = level.grad_obj + chunk.image * area + at;
  for (int64_t i = 0; i < count; i += L::kCount) {
    const V p = L::load(h + i);
    L::store_some(grad_obj + i, L::load(grad_h + i) * ((V(1) - p) * p),
                  int(count - i < L::kCount ? count - i : L::kCount));
  }
}

template <typename V, typename S>
double negative_either(const Work<S>& work, const Chunk& chunk, S* scratch) {
  return work.options.focal_gamma == 2 ? negative_step<true, V>(work, chunk, scratch)
                                       : negative_step<false, V>(work, chunk, scratch);
}

template <typename V, typename S>
void gradients_either(const Work<S>& work, const Chunk& chunk, S* scratch) {
  if (work.options.focal_gamma == 2) {
    gradients_step<true, V>(work, chunk, scratch);
  } else {
    gradients_step<false, V>(work, chunk, scratch);
  }
}

template <typename V, typename S>
constexpr Steps<S> kSteps = {statistics_step<V, S>, prior_roots_step<V, S>, negative_either<V, S>,
                             gradients_either<V, S>};
