// Vectors of floats with the functions that math/quality.h needs. Included once in each of the
// quality_<instruction set>.cpp, inside their namespace and after their target pragma, with
// FA_VECTOR_BYTES set; so it includes nothing itself.

typedef float RawFloat __attribute__((vector_size(FA_VECTOR_BYTES)));
typedef int RawInt __attribute__((vector_size(FA_VECTOR_BYTES)));

struct Mask {
  RawInt v;
};

struct Vector {
  RawFloat v;
  Vector() = default;  // trivial: an implicit constructor would miss the target pragma
  FA_INLINE Vector(RawFloat value) : v(value) {}
  FA_INLINE Vector(double value) : v(RawFloat{} + static_cast<float>(value)) {}
  FA_INLINE Vector(float value) : v(RawFloat{} + value) {}
  FA_INLINE Vector(int value) : v(RawFloat{} + static_cast<float>(value)) {}
};

using fa::select;  // of single numbers

FA_HOST_DEVICE Vector operator+(Vector a, Vector b) { return a.v + b.v; }
FA_HOST_DEVICE Vector operator-(Vector a, Vector b) { return a.v - b.v; }
FA_HOST_DEVICE Vector operator*(Vector a, Vector b) { return a.v * b.v; }
FA_HOST_DEVICE Vector operator/(Vector a, Vector b) { return a.v / b.v; }
FA_HOST_DEVICE Mask operator<(Vector a, Vector b) { return {a.v < b.v}; }
FA_HOST_DEVICE Mask operator<=(Vector a, Vector b) { return {a.v <= b.v}; }
FA_HOST_DEVICE Mask operator==(Vector a, Vector b) { return {a.v == b.v}; }
FA_HOST_DEVICE Vector select(Mask mask, Vector yes, Vector no) { return mask.v ? yes.v : no.v; }

// How the loops treat a vector and a single number (double) alike.
template <typename V>
struct Lanes;

template <>
struct Lanes<Vector> {
  typedef float Scalar;
  static constexpr int kCount = FA_VECTOR_BYTES / 4;
  static FA_INLINE Vector load(const float* from) {
    Vector x;
    __builtin_memcpy(&x.v, from, sizeof(x.v));
    return x;
  }
  static FA_INLINE void store(float* to, Vector x) { __builtin_memcpy(to, &x.v, sizeof(x.v)); }
  static FA_INLINE Vector load_some(const float* from, int count, float rest) {
    Vector x(rest);
    for (int i = 0; i < count; ++i) x.v[i] = from[i];
    return x;
  }
  static FA_INLINE void store_some(float* to, Vector x, int count) {
    for (int i = 0; i < count; ++i) to[i] = x.v[i];
  }
  // The lanes below `count`.
  static FA_INLINE Mask first(int count) {
    RawInt lane;
    for (int i = 0; i < kCount; ++i) lane[i] = i;
    return {lane < RawInt{} + count};
  }
  static FA_INLINE double sum(Vector x) {
    double total = 0;
    for (int i = 0; i < kCount; ++i) total += x.v[i];
    return total;
  }
  static FA_INLINE float lowest(Vector x) {
    float best = x.v[0];
    for (int i = 1; i < kCount; ++i) best = smaller(best, static_cast<float>(x.v[i]));
    return best;
  }
  static FA_INLINE float highest(Vector x) {
    float best = x.v[0];
    for (int i = 1; i < kCount; ++i) best = larger(best, static_cast<float>(x.v[i]));
    return best;
  }
};

template <>
struct Lanes<double> {
  typedef double Scalar;
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

// 2^n for whole n in [-126, 127].
FA_HOST_DEVICE Vector power_of_two(RawInt n) { return (RawFloat)((n + 127) << 23); }

// x = n ln 2 + r, n whole and |r| <= ln 2 / 2; ln 2 in two parts, so that r keeps its digits.
FA_HOST_DEVICE Vector reduce(Vector x, RawInt* n) {
  const Vector magic(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vector shifted = x * Vector(1.44269504f) + magic;
  *n = (RawInt)shifted.v - (RawInt)magic.v;
  const Vector whole = shifted - magic;
  return x - whole * Vector(0.693359375f) + whole * Vector(2.12194440e-4f);
}

// (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2 (polynomial of Cephes' expf).
FA_HOST_DEVICE Vector exp_tail(Vector r) {
  Vector y(1.9875691500e-4f);
  y = y * r + Vector(1.3981999507e-3f);
  y = y * r + Vector(8.3334519073e-3f);
  y = y * r + Vector(4.1665795894e-2f);
  y = y * r + Vector(1.6666665459e-1f);
  return y * r + Vector(5.0000001201e-1f);
}

// Within 2 units in the last place; 0 below -87.3, bounded by 1.7e38 above; NaN stays NaN.
FA_HOST_DEVICE Vector exp(Vector x) {
  const Vector low(-87.3f), high(88.02f);
  const Vector bounded = select(high < x, high, select(x < low, low, x));
  RawInt n;
  const Vector r = reduce(bounded, &n);
  const Vector y = exp_tail(r) * r * r + r + Vector(1.f);
  return select(x < low, Vector(0.f), y * power_of_two(n));
}

// For |x| <= 80.
FA_HOST_DEVICE Vector expm1(Vector x) {
  RawInt n;
  const Vector r = reduce(x, &n);
  const Vector scale = power_of_two(n);
  return (exp_tail(r) * r * r + r) * scale + (scale - Vector(1.f));
}

// For x in [-1, 0], -1 excluded: near 0 the polynomial takes x itself, and 1 + x is rounded only
// where the logarithm is large enough not to feel it (polynomial of Cephes' logf).
FA_HOST_DEVICE Vector log1p(Vector x) {
  const Mask large = x <= Vector(-0.29f);
  const Vector u = select(large, x + Vector(1.f), Vector(1.f));
  const RawInt bits = (RawInt)u.v;
  RawInt n = (bits - 0x3f3504f3) >> 23;  // u = 2^n m, m in [sqrt(1/2), sqrt(2))
  const Vector m((RawFloat)(bits - (n << 23)));
  const Vector f = select(large, m - Vector(1.f), x);
  const Vector z = f * f;
  Vector y(7.0376836292e-2f);
  y = y * f + Vector(-1.1514610310e-1f);
  y = y * f + Vector(1.1676998740e-1f);
  y = y * f + Vector(-1.2420140846e-1f);
  y = y * f + Vector(1.4249322787e-1f);
  y = y * f + Vector(-1.6668057665e-1f);
  y = y * f + Vector(2.0000714765e-1f);
  y = y * f + Vector(-2.4999993993e-1f);
  y = y * f + Vector(3.3333331174e-1f);
  const Vector whole(__builtin_convertvector(n, RawFloat));
  return y * f * z - z * Vector(0.5f) + whole * Vector(-2.12194440e-4f) + f +
         whole * Vector(0.693359375f);
}

FA_HOST_DEVICE Vector sqrt(Vector x) {
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
  return (RawFloat)_mm512_maskz_sqrt_ps(0xffff, (__m512)x.v);
#elif defined(__x86_64__) && FA_VECTOR_BYTES == 32
  return (RawFloat)_mm256_sqrt_ps((__m256)x.v);
#elif defined(__x86_64__)
  return (RawFloat)_mm_sqrt_ps((__m128)x.v);
#else
  for (int i = 0; i < Lanes<Vector>::kCount; ++i) x.v[i] = __builtin_sqrtf(x.v[i]);
  return x;
#endif
}

FA_HOST_DEVICE Vector pow(Vector x, Vector y) {
  for (int i = 0; i < Lanes<Vector>::kCount; ++i) x.v[i] = std::pow((float)x.v[i], (float)y.v[i]);
  return x;
}
