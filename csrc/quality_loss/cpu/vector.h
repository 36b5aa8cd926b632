// Vectors of floats, with the operators that quality_loss/math.h needs. Included once an
// instruction set, inside its namespace, by instance.h; so it includes nothing itself.

typedef float RawFloat __attribute__((vector_size(FA_VECTOR_BYTES)));
typedef int RawInt __attribute__((vector_size(FA_VECTOR_BYTES)));

template <int kParts>
struct Mask {
  RawInt v[kParts];
};

// kParts registers. Two of them hide the latency of the long chains in exp and log: the processor
// cannot look far enough ahead to find the next iteration's work by itself.
template <int kParts>
struct Packed {
  RawFloat v[kParts];
  Packed() = default;  // trivial: an implicit constructor would miss the target pragma
  FA_INLINE Packed(float value) {
    for (int i = 0; i < kParts; ++i) v[i] = RawFloat{} + value;
  }
  FA_INLINE Packed(double value) : Packed(static_cast<float>(value)) {}
  FA_INLINE Packed(int value) : Packed(static_cast<float>(value)) {}
};

typedef Packed<1> Vector;

// Of single numbers.
using fa::focal;
using fa::select;
using fa::sigmoid;

#define FA_BINARY(RESULT, OP)                                                     \
  template <int kParts>                                                           \
  FA_HOST_DEVICE RESULT<kParts> operator OP(Packed<kParts> a, Packed<kParts> b) { \
    RESULT<kParts> result;                                                        \
    for (int i = 0; i < kParts; ++i) result.v[i] = a.v[i] OP b.v[i];              \
    return result;                                                                \
  }
FA_BINARY(Packed, +)
FA_BINARY(Packed, -)
FA_BINARY(Packed, *)
FA_BINARY(Packed, /)
FA_BINARY(Mask, <)
FA_BINARY(Mask, <=)
FA_BINARY(Mask, ==)
#undef FA_BINARY

template <int kParts>
FA_HOST_DEVICE Packed<kParts> operator-(Packed<kParts> x) {
  for (int i = 0; i < kParts; ++i) x.v[i] = -x.v[i];
  return x;
}

template <int kParts>
FA_HOST_DEVICE Packed<kParts> select(Mask<kParts> mask, Packed<kParts> yes, Packed<kParts> no) {
  for (int i = 0; i < kParts; ++i) yes.v[i] = mask.v[i] ? yes.v[i] : no.v[i];
  return yes;
}

// How the loops treat a vector and a single number (double) alike.
template <typename V>
struct Lanes;

template <int kParts>
struct Lanes<Packed<kParts>> {
  typedef Packed<kParts> V;
  // For the dense loops: as many at once as the registers hold.
  typedef Packed<FA_VECTOR_BYTES == 64 ? 3 : 2> Wide;
  static constexpr int kPart = FA_VECTOR_BYTES / 4;
  static constexpr int kCount = kParts * kPart;
  static FA_INLINE V load(const float* from) {
    V x;
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(&x.v[i], from + i * kPart, sizeof(x.v[i]));
    return x;
  }
  static FA_INLINE void store(float* to, V x) {
    for (int i = 0; i < kParts; ++i) __builtin_memcpy(to + i * kPart, &x.v[i], sizeof(x.v[i]));
  }
  static FA_INLINE V load_some(const float* from, int count, float rest) {
    V x(rest);
    for (int i = 0; i < count; ++i) x.v[i / kPart][i % kPart] = from[i];
    return x;
  }
  static FA_INLINE void store_some(float* to, V x, int count) {
    for (int i = 0; i < count; ++i) to[i] = x.v[i / kPart][i % kPart];
  }
  // The lanes below `count`.
  static FA_INLINE Mask<kParts> first(int count) {
    RawInt lane;
    for (int i = 0; i < kPart; ++i) lane[i] = i;
    Mask<kParts> mask;
    for (int i = 0; i < kParts; ++i) mask.v[i] = lane < RawInt{} + (count - i * kPart);
    return mask;
  }
  static FA_INLINE double sum(V x) {
    double total = 0;
    for (int i = 0; i < kCount; ++i) total += x.v[i / kPart][i % kPart];
    return total;
  }
  static FA_INLINE float lowest(V x) {
    float best = x.v[0][0];
    for (int i = 1; i < kCount; ++i) best = smaller(best, float(x.v[i / kPart][i % kPart]));
    return best;
  }
  static FA_INLINE float highest(V x) {
    float best = x.v[0][0];
    for (int i = 1; i < kCount; ++i) best = larger(best, float(x.v[i / kPart][i % kPart]));
    return best;
  }
};

template <>
struct Lanes<double> {
  typedef double Wide;
  static constexpr int kCount = 1;
  static FA_INLINE double load(const double* from) { return *from; }
  static FA_INLINE void store(double* to, double x) { *to = x; }
  static FA_INLINE double load_some(const double* from, int, double) { return *from; }
  static FA_INLINE void store_some(double* to, double x, int) { *to = x; }
  static FA_INLINE bool first(int count) { return count > 0; }
  static FA_INLINE double sum(double x) { return x; }
  static FA_INLINE double lowest(double x) { return x; }
  static FA_INLINE double highest(double x) { return x; }
};

// Into [low, high]; a NaN stays a NaN.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> clamp(Packed<kParts> x, float low, float high) {
  const Packed<kParts> l(low), h(high);
  for (int i = 0; i < kParts; ++i) {
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
    const __m512 y = _mm512_maskz_min_ps(0xffff, (__m512)h.v[i], (__m512)x.v[i]);
    x.v[i] = (RawFloat)_mm512_maskz_max_ps(0xffff, (__m512)l.v[i], y);
#elif defined(__x86_64__) && FA_VECTOR_BYTES == 32
    x.v[i] = (RawFloat)_mm256_max_ps((__m256)l.v[i], _mm256_min_ps((__m256)h.v[i], (__m256)x.v[i]));
#elif defined(__x86_64__)
    x.v[i] = (RawFloat)_mm_max_ps((__m128)l.v[i], _mm_min_ps((__m128)h.v[i], (__m128)x.v[i]));
#else
    x.v[i] = h.v[i] < x.v[i] ? h.v[i] : (x.v[i] < l.v[i] ? l.v[i] : x.v[i]);
#endif
  }
  return x;
}
