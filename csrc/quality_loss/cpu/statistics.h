// The loss's loops over one chunk, second part: what each box needs from its locations.

constexpr int64_t kIouBlock = 64;  // locations whose predictions are tested together

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
FA_HOST_DEVICE V weighted_prior(const PairQuality<V>& pair, const BoxStatistics& statistics) {
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
