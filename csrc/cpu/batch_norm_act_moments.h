// Means and squared deviations, for batch_norm_act_loops.h: of numbers that stay in the cache for both passes.
//
// Sums of float numbers are double, for they cancel; those of 16-bit numbers float over a tile, which is as good as
// exact beside what the numbers were rounded to, and so are those of squares, which cannot cancel. Tiles are merged in
// double.

template <class S, class C>
struct Lanes {
  static constexpr int64_t count = GK_VECTOR_BYTES / sizeof(S);
  typedef S type __attribute__((vector_size(GK_VECTOR_BYTES)));
  typedef C loose __attribute__((vector_size(count * sizeof(C)), aligned(sizeof(C)), may_alias));

  static inline type load(const C* p) { return __builtin_convertvector(*reinterpret_cast<const loose*>(p), type); }
  static inline double total(type v) {
    S sum[4] = {};
    for (int64_t i = 0; i < count; ++i) sum[i % 4] += v[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
};

template <class T>
using SumOf = std::conditional_t<sizeof(T) == 2, float, double>;

inline double sum_lanes(double* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

// The sum of term(number or vector of them), of type S.
template <class S, class C, class F>
inline double sum_of(const C* x, int64_t n, F term) {
  using V = Lanes<S, C>;
  typename V::type sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * V::count <= n; i += 4 * V::count)
    for (int w = 0; w < 4; ++w) sum[w] += term(V::load(x + i + w * V::count));
  for (; i + V::count <= n; i += V::count) sum[0] += term(V::load(x + i));
  double total = V::total((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < n; ++i) total += term(S(x[i]));
  return total;
}

template <class S, class C>
inline NormMoments tile_moments(const C* x, int64_t n) {
  const double mean = sum_of<S>(x, n, [](auto v) { return v; }) / n;
  const C centre = C(mean);
  const double off = mean - centre;
  const double squares = sum_of<C>(x, n, [=](auto v) {
    const auto centred = v - centre;
    return centred * centred;
  });
  return {double(n), mean, squares - n * off * off};
}

// One channel of a contiguous [batch, channels, inner], as tiles of one plane: f(offset, length).
template <class F>
inline void each_tile(const NormShape& s, int64_t channel, F f) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t i = 0; i < s.inner; i += kTile)
      f((n * s.channels + channel) * s.inner + i, s.inner - i < kTile ? s.inner - i : kTile);
}

template <class T>
NormMoments channel_moments(const NormShape& s, int64_t channel, const T* x) {
  using C = at::opmath_type<T>;
  alignas(kLine) C buffer[kTile];
  NormMoments all;
  each_tile(s, channel,
            [&](int64_t offset, int64_t n) { all.add(tile_moments<SumOf<T>>(as_acc(x + offset, buffer, n), n)); });
  return all;
}

// The mean and squares of each of `planes` planes of n numbers that lie together, to out[plane * kMostTerms].
template <class T>
void plane_moments(const T* x, int64_t n, int64_t planes, double* out) {
  using C = at::opmath_type<T>;
  alignas(kLine) C buffer[kTile];
  const C* in = as_acc(x, buffer, n * planes);
  for (int64_t plane = 0; plane < planes; ++plane) {
    const NormMoments m = tile_moments<SumOf<T>>(in + plane * n, n);
    out[plane * kMostTerms] = m.mean, out[plane * kMostTerms + 1] = m.squares;
  }
}

// f(first, count) for a few rows after another.
template <class T, class F>
inline void each_few_rows(const NormRows<T>& r, F f) {
  for (int64_t row = 0; row < r.rows; row += kRowsAtOnce)
    f(row, r.rows - row < kRowsAtOnce ? r.rows - row : kRowsAtOnce);
}

// Adds term(number, column) of each column to sums, a few rows by sums of type S.
template <class S, class T, class F>
inline void add_columns(const NormRows<T>& r, double* __restrict sums, F term) {
  using C = at::opmath_type<T>;
  alignas(kLine) C buffer[kRowsAtOnce * kStrip];
  each_few_rows(r, [&](int64_t first, int64_t rows) {
    const C* x[kRowsAtOnce];
    for (int64_t k = 0; k < rows; ++k)
      x[k] = as_acc(r.source[kX] + (first + k) * r.pitch, buffer + k * kStrip, r.width);
    if (rows == kRowsAtOnce) {
      const C *a = x[0], *b = x[1], *c = x[2], *d = x[3];
      GK_IVDEP
      for (int64_t i = 0; i < r.width; ++i)
        sums[i] += (term(S(a[i]), i) + term(S(b[i]), i)) + (term(S(c[i]), i) + term(S(d[i]), i));
    } else {
      for (int64_t k = 0; k < rows; ++k) {
        const C* a = x[k];
        GK_IVDEP
        for (int64_t i = 0; i < r.width; ++i) sums[i] += term(S(a[i]), i);
      }
    }
  });
}

// The mean of each column to totals[0], the sum of its squared deviations to totals[1]: blocks of rows that stay in the
// cache for both their passes, merged in double.
template <class T>
void row_moments(const NormRows<T>& r, double* totals) {
  using C = at::opmath_type<T>;
  static_assert(kRowsAtOnce == 4);
  alignas(kLine) C centre[kStrip];
  double count = 0, *means = totals, *squares = totals + kStrip;
  for (int64_t row = 0; row < r.rows; row += kMomentRows) {
    const int64_t n = r.rows - row < kMomentRows ? r.rows - row : kMomentRows;
    const NormRows<T> block{{r.source[kX] + row * r.pitch}, {}, n, r.pitch, r.width};
    alignas(kLine) double sum[kStrip] = {}, square[kStrip] = {};
    add_columns<SumOf<T>>(block, sum, [](auto v, int64_t) { return v; });
    const double over = 1.0 / n, total = count + n, share = n / total, weight = count * share;
    for (int64_t i = 0; i < r.width; ++i) centre[i] = C(sum[i] * over);
    add_columns<C>(block, square, [&](C v, int64_t i) { return (v - centre[i]) * (v - centre[i]); });
    for (int64_t i = 0; i < r.width; ++i) {
      const double here = sum[i] * over, off = here - centre[i], delta = here - means[i];
      means[i] += delta * share;
      squares[i] += square[i] - n * off * off + delta * delta * weight;
    }
    count = total;
  }
}
