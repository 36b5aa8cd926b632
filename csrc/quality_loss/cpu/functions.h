// The functions that quality_loss/math.h needs, of vectors (vector.h). Included like them.

// 1 / x for x in [0.5, 2e38], exactly 1 for 1 (a saturated probability must be 1). AVX-512's
// estimate is good enough for one step of Newton's to keep that; those of the older sets are not.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> reciprocal(Packed<kParts> x) {
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
  Packed<kParts> y;
  for (int i = 0; i < kParts; ++i) {
    y.v[i] = (RawFloat)_mm512_maskz_rcp14_ps(0xffff, (__m512)x.v[i]);
  }
  return y + y * (Packed<kParts>(1.f) - x * y);
#else
  return Packed<kParts>(1.f) / x;
#endif
}

// Whether all lanes are at most `bound`, NaN not.
template <int kParts>
FA_HOST_DEVICE bool all_at_most(Packed<kParts> x, float bound) {
  const Packed<kParts> b(bound);
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
  __mmask16 all = 0xffff;
  for (int i = 0; i < kParts; ++i) {
    all &= _mm512_cmp_ps_mask((__m512)x.v[i], (__m512)b.v[i], _CMP_LE_OQ);
  }
  return all == 0xffff;
#else
  bool all = true;
  for (int i = 0; i < kParts; ++i) {
#if defined(__x86_64__) && FA_VECTOR_BYTES == 32
    all = all &&
          _mm256_movemask_ps(_mm256_cmp_ps((__m256)x.v[i], (__m256)b.v[i], _CMP_LE_OQ)) == 0xff;
#elif defined(__x86_64__)
    all = all && _mm_movemask_ps(_mm_cmple_ps((__m128)x.v[i], (__m128)b.v[i])) == 0xf;
#else
    for (int k = 0; k < FA_VECTOR_BYTES / 4; ++k) all = all && x.v[i][k] <= bound;
#endif
  }
  return all;
#endif
}

// exp(x) = 2^n (1 + tail), n whole; |x| <= 88. tail is exp(r) - 1 with x = n ln 2 + r,
// |r| <= ln 2 / 2 (interpolated at Chebyshev nodes, relative error 1e-8).
template <int kParts>
struct Exponential {
  typedef Packed<kParts> V;
  V scale, tail;

  FA_INLINE Exponential(V x) {
    const V magic(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
    const V shifted = x * V(1.44269504f) + magic, whole = shifted - magic;
    // ln 2 in two parts, so that r keeps its digits.
    const V r = x - whole * V(0.693359375f) + whole * V(2.12194440e-4f), r2 = r * r;
    const V low = V(0.5f) + r * V(0.166665778f);
    const V middle = V(4.16665561e-2f) + r * V(8.36317334e-3f);
    tail = (low + r2 * (middle + r2 * V(1.39261759e-3f))) * r2 + r;
    for (int i = 0; i < kParts; ++i) {
      scale.v[i] = (RawFloat)(((RawInt)shifted.v[i] - (RawInt)magic.v[i] + 127) << 23);
    }
  }
};

// exp(x) for x in [-87.3, 88.02], within 2 units in the last place; NaN stays NaN.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> bounded_exp(Packed<kParts> x) {
  typedef Packed<kParts> V;
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
  // x = k ln 2 / 16 + r: a register is the table of 2^(k / 16), and the polynomial is short.
  const __m512 roots = {1.f,         1.04427378f, 1.09050773f, 1.13878863f,
                        1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
                        1.41421354f, 1.47682615f, 1.54221082f, 1.61049033f,
                        1.68179286f, 1.75625217f, 1.83400809f, 1.91520655f};
  const V magic(12582912.f);
  const V shifted = x * V(16 * 1.44269504f) + magic, whole = shifted - magic;
  const V r = x - whole * V(0.693359375f / 16) + whole * V(2.12194440e-4f / 16);
  const V tail = r * r * (V(0.500009775f) + r * V(0.166668624f)) + r;
  V scale;
  for (int i = 0; i < kParts; ++i) {
    const RawInt k = (RawInt)shifted.v[i];  // its last 4 bits choose the root, the others 2^n
    const RawInt root = (RawInt)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)k, roots);
    scale.v[i] = (RawFloat)(((k << 19) & int(0xff800000)) + root);
  }
  return scale * tail + scale;
#else
  const Exponential<kParts> e(x);
  return e.scale * e.tail + e.scale;
#endif
}

// The same for all x, denormal results included; bounded by 1.7e38 above.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> exp(Packed<kParts> x) {
  typedef Packed<kParts> V;
  const V y = bounded_exp(clamp(x, -87.3f, 88.02f));
  if (all_at_most(-x, 87.3f)) return y;
  const V root = bounded_exp(clamp(x * V(0.5f), -52.f, 0.f));
  return select(x < V(-87.3f), root * root, y);
}

// For |x| <= 80.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> expm1(Packed<kParts> x) {
  const Exponential<kParts> e(x);
  return e.tail * e.scale + (e.scale - Packed<kParts>(1.f));
}

// sigmoid(x), but e^-88 at least. The exponential is rounded before 1 is added, as in PyTorch: the
// last steps below 1 decide over log(1 - p), and scale + 1 rounded first would end them early.
template <int kParts>
FA_HOST_DEVICE Packed<kParts> bounded_sigmoid(Packed<kParts> x) {
  return reciprocal(bounded_exp(-clamp(x, -88.f, 87.f)) + Packed<kParts>(1.f));
}

FA_HOST_DEVICE double bounded_sigmoid(double x) { return sigmoid(x); }

template <int kParts>
FA_HOST_DEVICE Packed<kParts> sigmoid(Packed<kParts> x) {
  const Packed<kParts> p = bounded_sigmoid(x);
  if (all_at_most(-x, 87.f)) return p;
  return select(x < Packed<kParts>(-87.f), exp(x), p);
}

// For x in [-1, 0], -1 excluded: near 0 the polynomial takes x itself, and 1 + x is rounded only
// where the logarithm is large enough not to feel it (coefficients of Cephes' logf, paired).
template <int kParts>
FA_HOST_DEVICE Packed<kParts> log1p(Packed<kParts> x) {
  typedef Packed<kParts> V;
  const Mask<kParts> large = x <= V(-0.29f);
  const V u = select(large, x + V(1.f), V(1.f));
  V m, n;  // u = 2^n m, m in [sqrt(1/2), sqrt(2))
  for (int i = 0; i < kParts; ++i) {
    const RawInt bits = (RawInt)u.v[i], exponent = (bits - 0x3f3504f3) >> 23;
    m.v[i] = (RawFloat)(bits - (exponent << 23));
    n.v[i] = __builtin_convertvector(exponent, RawFloat);
  }
  const V f = select(large, m - V(1.f), x), z = f * f, z2 = z * z;
  const V a = V(3.3333331174e-1f) + f * V(-2.4999993993e-1f);
  const V b = V(2.0000714765e-1f) + f * V(-1.6668057665e-1f);
  const V c = V(1.4249322787e-1f) + f * V(-1.2420140846e-1f);
  const V d = V(1.1676998740e-1f) + f * V(-1.1514610310e-1f);
  const V y = (a + z * b) + z2 * ((c + z * d) + z2 * V(7.0376836292e-2f));
  return (y * (f * z) - z * V(0.5f)) + (n * V(-2.12194440e-4f) + f) + n * V(0.693359375f);
}

// Nearly all n are small: then A = -log(1 - n) / n is a polynomial, interpolated at Chebyshev nodes
// on [0, 1/4] with a relative error of 1e-8, the focal term n^3 A and its slope
// n^2 (2 A + 1 / (1 - n)).
template <bool kSquare, bool kGradient, int kParts>
FA_HOST_DEVICE Packed<kParts> focal(Packed<kParts> n, double gamma, Packed<kParts>* slope) {
  typedef Packed<kParts> V;
  if (!kSquare || !all_at_most(n, 0.25f)) return fa::focal<kSquare, kGradient, V>(n, gamma, slope);
  const V n2 = n * n;
  const V low = V(1.f) + n * V(0.499999136f), middle = V(0.333387673f) + n * V(0.248725951f);
  const V high = V(0.213974386f) + n * V(0.0905156136f);
  const V a = low + n2 * (middle + n2 * (high + n2 * V(0.332574934f)));
  if (kGradient) *slope = n2 * (V(2.f) * a + reciprocal(V(1.f) - n));
  return n2 * n * a;
}

template <int kParts>
FA_HOST_DEVICE Packed<kParts> sqrt(Packed<kParts> x) {
  for (int i = 0; i < kParts; ++i) {
#if defined(__x86_64__) && FA_VECTOR_BYTES == 64
    x.v[i] = (RawFloat)_mm512_maskz_sqrt_ps(0xffff, (__m512)x.v[i]);
#elif defined(__x86_64__) && FA_VECTOR_BYTES == 32
    x.v[i] = (RawFloat)_mm256_sqrt_ps((__m256)x.v[i]);
#elif defined(__x86_64__)
    x.v[i] = (RawFloat)_mm_sqrt_ps((__m128)x.v[i]);
#else
    for (int k = 0; k < FA_VECTOR_BYTES / 4; ++k) x.v[i][k] = __builtin_sqrtf(x.v[i][k]);
#endif
  }
  return x;
}

template <int kParts>
FA_HOST_DEVICE Packed<kParts> pow(Packed<kParts> x, Packed<kParts> y) {
  for (int i = 0; i < kParts; ++i) {
    for (int k = 0; k < FA_VECTOR_BYTES / 4; ++k) {
      x.v[i][k] = std::pow(float(x.v[i][k]), float(y.v[i][k]));
    }
  }
  return x;
}
