// Included by foreach_isa.h in each instruction set's namespace: weighted sums of numbers at several pointers, the one
// arithmetic of FIR filters. The end of a run is done by a last vector that overlaps the one before.

template <class A>
struct FirVector {
  typedef A type __attribute__((vector_size(GK_VECTOR_BYTES)));
  typedef A loose __attribute__((vector_size(GK_VECTOR_BYTES), aligned(sizeof(A)), may_alias));
  static constexpr int64_t lanes = GK_VECTOR_BYTES / sizeof(A);

  static inline type load(const A* p) { return *reinterpret_cast<const loose*>(p); }
  static inline void store(A* p, type v) { *reinterpret_cast<loose*>(p) = v; }
  static inline type all(A a) { return a - type{}; }
  static inline type pairs(A a, A b) {
    type v;
    for (int64_t i = 0; i < lanes; i += 2) v[i] = a, v[i + 1] = b;
    return v;
  }

  // a and b alternating, first and second half; and the inverse, the numbers at even and odd places of a, b.
  static inline type zip_first(type a, type b) {
    if constexpr (lanes == 2) return __builtin_shufflevector(a, b, 0, 2);
    if constexpr (lanes == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    if constexpr (lanes == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    if constexpr (lanes == 16)
      return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  }
  static inline type zip_second(type a, type b) {
    if constexpr (lanes == 2) return __builtin_shufflevector(a, b, 1, 3);
    if constexpr (lanes == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    if constexpr (lanes == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    if constexpr (lanes == 16)
      return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  }
  static inline type even(type a, type b) {
    if constexpr (lanes == 2) return __builtin_shufflevector(a, b, 0, 2);
    if constexpr (lanes == 4) return __builtin_shufflevector(a, b, 0, 2, 4, 6);
    if constexpr (lanes == 8) return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    if constexpr (lanes == 16)
      return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  }
  static inline type odd(type a, type b) {
    if constexpr (lanes == 2) return __builtin_shufflevector(a, b, 1, 3);
    if constexpr (lanes == 4) return __builtin_shufflevector(a, b, 1, 3, 5, 7);
    if constexpr (lanes == 8) return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
    if constexpr (lanes == 16)
      return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
};

// W vectors, `step` numbers apart, of sum_t c[t] * p[t][at..]; T taps where known when compiled, else `taps`.
template <int T, int W, class A>
inline void sum_vectors(typename FirVector<A>::type (&sum)[W], int64_t taps, const A* c, const A* const* p, int64_t at,
                        int64_t step = FirVector<A>::lanes) {
  using V = FirVector<A>;
  const int64_t n = T ? T : taps;
  for (int w = 0; w < W; ++w) sum[w] = V::all(c[0]) * V::load(p[0] + at + w * step);
  for (int64_t t = 1; t < n; ++t)
    for (int w = 0; w < W; ++w) sum[w] += V::all(c[t]) * V::load(p[t] + at + w * step);
}

template <int T, class A>
inline void weighted_sum_of(A* out, int64_t n, int64_t taps, const A* c, const A* const* p, int64_t at) {
  using V = FirVector<A>;
  constexpr int W = T ? 2 : 4;
  const int64_t count = T ? T : taps;
  int64_t j = 0;
  for (; j + W * V::lanes <= n; j += W * V::lanes) {
    typename V::type sum[W];
    sum_vectors<T>(sum, count, c, p, at + j);
    for (int w = 0; w < W; ++w) V::store(out + j + w * V::lanes, sum[w]);
  }
  for (; j < n && n >= V::lanes; j += V::lanes) {
    const int64_t i = std::min(j, n - V::lanes);
    typename V::type sum[1];
    sum_vectors<T>(sum, count, c, p, at + i);
    V::store(out + i, sum[0]);
  }
  for (; j < n; ++j) {
    A sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += c[t] * p[t][at + j];
    out[j] = sum;
  }
}

// out[j] = sum_t c[t] * p[t][at + j].
template <class A>
void weighted_sum(A* out, int64_t n, int64_t taps, const A* c, const A* const* p, int64_t at) {
  switch (taps) {
    case 0:
      std::fill(out, out + n, A(0));
      return;
    case 1:
      return weighted_sum_of<1>(out, n, taps, c, p, at);
    case 2:
      return weighted_sum_of<2>(out, n, taps, c, p, at);
    case 3:
      return weighted_sum_of<3>(out, n, taps, c, p, at);
    case 4:
      return weighted_sum_of<4>(out, n, taps, c, p, at);
    default:
      return weighted_sum_of<0>(out, n, taps, c, p, at);
  }
}

template <int T, class A>
inline void weighted_sums_zipped_of(A* out, int64_t n, int64_t taps, const A* c, const A* const* p, const A* d,
                                    const A* const* q) {
  using V = FirVector<A>;
  int64_t j = 0;
  const auto vectors = [&](auto count, int64_t i) {
    typename V::type a[count.value], b[count.value];
    sum_vectors<T>(a, taps, c, p, i);
    sum_vectors<T>(b, taps, d, q, i);
    for (int w = 0; w < count.value; ++w) {
      V::store(out + 2 * (i + w * V::lanes), V::zip_first(a[w], b[w]));
      V::store(out + 2 * (i + w * V::lanes) + V::lanes, V::zip_second(a[w], b[w]));
    }
  };
  for (; j + 2 * V::lanes <= n; j += 2 * V::lanes) vectors(std::integral_constant<int, 2>(), j);
  for (; j < n && n >= V::lanes; j += V::lanes) vectors(std::integral_constant<int, 1>(), std::min(j, n - V::lanes));
  for (; j < n; ++j) {
    A a = 0, b = 0;
    for (int64_t t = 0; t < taps; ++t) a += c[t] * p[t][j], b += d[t] * q[t][j];
    out[2 * j] = a, out[2 * j + 1] = b;
  }
}

// out[2j] = sum_t c[t] * p[t][j], out[2j + 1] = sum_t d[t] * q[t][j].
template <class A>
void weighted_sums_zipped(A* out, int64_t n, int64_t taps, const A* c, const A* const* p, const A* d,
                          const A* const* q) {
  switch (taps) {
    case 0:
      std::fill(out, out + 2 * n, A(0));
      return;
    case 2:
      return weighted_sums_zipped_of<2>(out, n, taps, c, p, d, q);
    case 6:
      return weighted_sums_zipped_of<6>(out, n, taps, c, p, d, q);
    default:
      return weighted_sums_zipped_of<0>(out, n, taps, c, p, d, q);
  }
}

template <int T, class A>
inline void weighted_sum_halved_of(A* out, int64_t n, int64_t pairs, const A* c, const A* const* p) {
  using V = FirVector<A>;
  const int64_t count = T ? T : pairs;
  typename V::type ready[T ? T : 1];  // the compiler cannot know that writing `out` leaves c alone
  for (int64_t t = 0; t < T; ++t) ready[t] = V::pairs(c[2 * t], c[2 * t + 1]);
  int64_t j = 0;
  for (; j < n && n >= V::lanes; j += V::lanes) {
    const int64_t i = std::min(j, n - V::lanes);
    typename V::type a{}, b{};
    for (int64_t t = 0; t < count; ++t) {
      const typename V::type w = T ? ready[t] : V::pairs(c[2 * t], c[2 * t + 1]);
      a += w * V::load(p[t] + 2 * i);
      b += w * V::load(p[t] + 2 * i + V::lanes);
    }
    V::store(out + i, V::even(a, b) + V::odd(a, b));
  }
  for (; j < n; ++j) {
    A sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += c[2 * t] * p[t][2 * j] + c[2 * t + 1] * p[t][2 * j + 1];
    out[j] = sum;
  }
}

// out[j] = sum_t c[2t] * p[t][2j] + c[2t + 1] * p[t][2j + 1].
template <class A>
void weighted_sum_halved(A* out, int64_t n, int64_t pairs, const A* c, const A* const* p) {
  switch (pairs) {
    case 2:
      return weighted_sum_halved_of<2>(out, n, pairs, c, p);
    case 6:
      return weighted_sum_halved_of<6>(out, n, pairs, c, p);
    default:
      return weighted_sum_halved_of<0>(out, n, pairs, c, p);
  }
}
