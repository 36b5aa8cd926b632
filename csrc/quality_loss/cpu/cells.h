// The loss's loops over one chunk (see steps.h), first part: the locations of a claim,
// packed. These four headers are included once an instruction set, inside its namespace, by
// instance.h; so they include nothing. V is Vector (floats) or double, S its scalar type.

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
  FA_INLINE void pad(S pad_x, S pad_y) {
    for (int64_t i = count; i < count + kScratchPadding; ++i) {
      cls[i] = obj[i] = iou[i] = 0;
      l[i] = t[i] = r[i] = b[i] = 1;
      x[i] = pad_x;
      y[i] = pad_y;
    }
  }
};

template <typename S>
FA_HOST_DEVICE int64_t padded_cells(const Level<S>& level, const Chunk& chunk) {
  return (chunk.last_row - chunk.first_row) * level.width + kScratchPadding;
}

template <typename S>
FA_HOST_DEVICE void copy(S* to, const S* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

template <typename S>
FA_HOST_DEVICE void add(S* to, const S* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <typename S>
FA_HOST_DEVICE void fill(S* to, S value, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

template <typename S>
FA_HOST_DEVICE S coordinate(int64_t cell, const Level<S>& level, S offset) {
  return (S(cell) + offset) * level.stride;
}

// One row's predictions and coordinates to the end of `cells`; plane: the image's (4, H, W).
template <typename S>
FA_HOST_DEVICE void append(Cells<S>* cells, const Level<S>& level, const S* plane, int64_t row,
                           int64_t x0, int64_t x1, S offset) {
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
FA_HOST_DEVICE Ltrb<V> prediction_at(const Cells<S>& cells, int64_t i) {
  typedef Lanes<V> L;
  return {L::load(cells.l + i), L::load(cells.t + i), L::load(cells.r + i), L::load(cells.b + i)};
}

template <typename V, typename S>
FA_HOST_DEVICE PairQuality<V> pair_at(const Cells<S>& cells, int64_t i, const Box<S>& box,
                                      const Gaussian<S>& gaussian, const QualityOptions& options) {
  typedef Lanes<V> L;
  return pair_quality<V, S>(L::load(cells.cls + i), L::load(cells.obj + i),
                            prediction_at<V>(cells, i), L::load(cells.x + i), L::load(cells.y + i),
                            box.x1, box.y1, box.x2, box.y2, gaussian, options);
}

template <typename S>
FA_HOST_DEVICE Gaussian<S> gaussian_of(const Work<S>& work, const Box<S>& box, int64_t level) {
  const int64_t at = level * work.level_step + 2 * box.cls;
  return make_gaussian(box.x1, box.y1, box.x2, box.y2, work.levels[level].stride, work.mu + at,
                       work.sigma + at);
}
