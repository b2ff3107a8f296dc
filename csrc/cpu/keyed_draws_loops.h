// The loops of keyed_draws; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 512;
constexpr int64_t kStep = 32;  // blocks are filled by whole steps: no number depends on where a vector ended

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Word = uint32_t;
  static constexpr int kMantissa = 23, kAtanhTerms = 5;
  static constexpr Word kBias = 128, kRootHalf = 0x3F3504F3, kMagic = 0x4B000000;  // 2^23, whose last bit counts ones
};
template <>
struct Bits<double> {
  using Word = uint64_t;
  static constexpr int kMantissa = 52, kAtanhTerms = 11;
  static constexpr Word kBias = 1024, kRootHalf = 0x3FE6A09E667F3BCD, kMagic = 0x4330000000000000;  // 2^52
};

template <class To, class From>
inline To bits_of(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &x, sizeof(To));
  return out;
}

// mix(word), of what its first step makes of it; that one, of 64 bits, would carry down what lies above 32.
inline uint32_t scramble(uint32_t word) {
  word *= 0x21F0AAAD;
  word ^= word >> 15;
  word *= 0x735A2D97;
  return word ^ (word >> 15);
}
inline uint32_t mix(uint32_t word) { return scramble(word ^ (word >> 16)); }

// a[0] + a[1] x + ... + a[N - 1] x^(N - 1)
template <class T, int64_t N, size_t... K>
inline T horner(const T (&a)[N], T x, std::index_sequence<K...>) {
  T y = a[N - 1];
  ((y = y * x + a[N - 2 - K]), ...);
  return y;
}
template <class T, int64_t N>
inline T horner(const T (&a)[N], T x) {
  return horner(a, x, std::make_index_sequence<N - 1>());
}

// log(m) / z = 2 (1 + z^2 / 3 + z^4 / 5 + ...) with z = (m - 1) / (m + 1); |z| < 0.172 for m from sqrt(1/2) to sqrt(2).
template <class T, size_t... K>
inline T log_series(T z2, std::index_sequence<K...>) {
  constexpr T terms[] = {T(2) / T(2 * K + 1)...};
  return horner(terms, z2);
}

// Of t between 2^-100 and 2^100.
template <class T>
inline T natural_log(T t) {
  using B = Bits<T>;
  using Word = typename B::Word;
  const Word bits = bits_of<Word>(t);
  const Word exponent = (bits - B::kRootHalf + (B::kBias << B::kMantissa)) >> B::kMantissa;  // of 2, plus the bias
  const T m = bits_of<T>(bits - ((exponent - B::kBias) << B::kMantissa));
  const T power = bits_of<T>(exponent | B::kMagic) - (bits_of<T>(B::kMagic) + T(B::kBias));
  const T z = (m - 1) / (m + 1);
  return power * T(0.69314718055994530942) + z * log_series(z * z, std::make_index_sequence<B::kAtanhTerms>());
}

// sqrt(2) erfinv(x) / x as a polynomial of (sqrt(4 - log(1 - x^2)) - 3.25) / 1.25, which lies between -1 and 1 for
// 1 - |x| of 2^-24 and more: the Chebyshev interpolant at 60 nodes, computed to 40 digits and cut off where the rest is
// below 1e-8 (float) and 1e-16 (double) of the value.
inline float normal_ratio(float t) {
  constexpr float a[] = {3.38946795f,     2.21194124f,    -0.153167546f,   -0.0152394623f, 0.113332078f,
                         -0.124717809f,   0.05977007f,    0.0219618082f,   -0.0601572357f, 0.0404225662f,
                         0.00701052137f,  -0.0329988115f, 0.0157014523f,   0.0100011788f,  -0.0100154169f,
                         -0.00030256607f, 0.00207371265f, -0.000366827153f};
  return horner(a, t);
}
inline double normal_ratio(double t) {
  constexpr double a[] = {
      3.3894678530716127,      2.2119411967890348,      -0.15316853595529628,    -0.015235798857918044,
      0.11335775675004561,     -0.12478425354166542,    0.059515617082108389,    0.022512644537574032,
      -0.058926726843191259,   0.037932425346250499,    0.0038564819939287155,   -0.026343060926143382,
      0.019728203631302284,    -0.00076488570526080503, -0.011078224017480719,   0.0097596029135817528,
      -0.0016360286128863125,  -0.0044500119610353106,  0.0047425932202267368,   -0.0013510596878851572,
      -0.001634371156690911,   0.0021889949300509851,   -0.0010668094836324452,  -0.00036410164514728512,
      0.001292515636338589,    -0.00096966938728633607, -0.00040179079007147793, 0.0010345924336311217,
      -0.00019052650290550801, -0.00055328306414988658, 0.00024902110964341071,  0.00017767040981359284,
      -0.00011708086166111415, -3.1766586527700527e-05, 2.8524497737330393e-05,  1.9443520869159111e-06,
      -2.9996023994922256e-06, 1.5550222383000597e-07};
  return horner(a, t);
}

template <class T>
inline T normal_of(T u) {
  const T s = std::sqrt(T(4) - natural_log(4 * u * (1 - u)));
  return (2 * u - 1) * normal_ratio((s - T(3.25)) * T(0.8));
}

inline uint32_t mixed_key(int64_t key) { return mix(mix(uint32_t(key)) ^ uint32_t(uint64_t(key) >> 32)); }

// Numbers `at` to `at + n` of a sample, n up to kBlock; `base` tells streams apart.
template <class T>
void draw_block(uint32_t sample, int64_t base, int64_t at, int64_t n, bool normal, T* out) {
  uint32_t words[kBlock];
  T numbers[kBlock];
  const int64_t stop = (n + kStep - 1) / kStep * kStep;
  const uint64_t first = uint64_t(base + at);
  for (int64_t j = 0; j < stop; ++j) {
    const uint64_t place = first + uint64_t(j);
    words[j] = uint32_t(place) ^ uint32_t(place >> 16);
  }
  for (int64_t j = 0; j < stop; ++j) words[j] = mix(sample ^ scramble(words[j]));
  for (int64_t j = 0; j < stop; ++j) {
    const T u = (T(int32_t(words[j] >> 8)) + T(0.5)) * T(0x1p-24);
    numbers[j] = u < T(1 - 0x1p-24) ? u : T(1 - 0x1p-24);
  }
  if (normal)
    for (int64_t j = 0; j < stop; ++j) numbers[j] = normal_of(numbers[j]);
  memcpy(out, numbers, n * sizeof(T));
}
