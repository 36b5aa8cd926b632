// Vectors and the register-blocked matrix product of one instruction set. Included inside a
// namespace of its own by instance.h, which defines FA_VECTOR_BYTES and FA_ROWS.

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(FA_VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = FA_VECTOR_BYTES / int(sizeof(T));
template <typename T>
constexpr int kPanel = 2 * kLanes<T>;  // columns that the product computes at once
constexpr int kRows =
    FA_ROWS;  // kRows * 2 accumulators, 2 vectors of b and 1 broadcast fill the registers

template <typename T>
FA_HOST_DEVICE Vector<T> load(const T* from) {
  Vector<T> value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

template <typename T>
FA_HOST_DEVICE void store(T* to, Vector<T> value) {
  __builtin_memcpy(to, &value, sizeof(value));
}

// Sum of the lanes, always in the same order.
template <typename T>
FA_HOST_DEVICE T sum(Vector<T> value) {
#if FA_VECTOR_BYTES == 64
  typedef T Half __attribute__((vector_size(32)));
  Half half[2];
  __builtin_memcpy(half, &value, sizeof(value));
  const Half folded = half[0] + half[1];
#else
  const Vector<T> folded = value;
#endif
#if FA_VECTOR_BYTES >= 32
  typedef T Quarter __attribute__((vector_size(16)));
  Quarter quarter[2];
  __builtin_memcpy(quarter, &folded, sizeof(folded));
  const Quarter last = quarter[0] + quarter[1];
#else
  const Vector<T> last = folded;
#endif
  if constexpr (sizeof(T) == 4) {
    return (last[0] + last[2]) + (last[1] + last[3]);
  } else {
    return last[0] + last[1];
  }
}

// c (kRows, kPanel), rows `c_row` apart, = or += a (kRows, chunks * depth) times b (chunks * depth,
// kPanel). Element (m, k) of a stands at m * kARow + (k % depth) * kAColumn + (k / depth) *
// chunk_stride.
template <typename T, int kARow, int kAColumn>
FA_HOST_DEVICE void multiply(const T* a, int64_t chunk_stride, int chunks, int depth, const T* b,
                             T* c, int64_t c_row, bool add) {
  Vector<T> sums[kRows][2];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) sums[m][0] = sums[m][1] = Vector<T>{};
  for (int chunk = 0; chunk < chunks; ++chunk, a += chunk_stride) {
    const T* row = a;
    for (int k = 0; k < depth; ++k, row += kAColumn, b += kPanel<T>) {
      const Vector<T> b0 = load(b), b1 = load(b + kLanes<T>);
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
        const T value = row[m * kARow];
        sums[m][0] += value * b0;
        sums[m][1] += value * b1;
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
    T* to = c + m * c_row;
    if (add) {
      sums[m][0] += load(to);
      sums[m][1] += load(to + kLanes<T>);
    }
    store(to, sums[m][0]);
    store(to + kLanes<T>, sums[m][1]);
  }
}
