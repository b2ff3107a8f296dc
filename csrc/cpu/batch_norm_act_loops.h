// The loops of batch_norm_act, compiled once for each instruction set (foreach_isa.h).
//
// A tile is at most kTile numbers of up to three inputs as accumulation-type numbers. Its factors are one set for all
// (Each = false: a tile of one channel) or one set an element (a tile across channels, the layout of channels_last).

template <class C, bool Each>
struct Factors;

template <class C>
struct Factors<C, false> {
  C value[kMostFactors];
  explicit Factors(const C* source, int64_t) {
    for (int j = 0; j < kMostFactors; ++j) value[j] = source[j];
  }
  C get(int j, int64_t) const { return value[j]; }
};

template <class C>
struct Factors<C, true> {
  const C* source;
  int64_t pitch;
  Factors(const C* from, int64_t by) : source(from), pitch(by) {}
  C get(int j, int64_t i) const { return source[j * pitch + i]; }
};

// The elementwise parts. terms() gives what is summed at an element, values() what is written.
template <class C>
struct MeanPart {
  static constexpr int kTerms = 1;
  template <class F>
  static GK_HD void terms(const C* x, const C*, const C*, int64_t i, const F&, const ActNumbers<C>&, C* out) {
    out[0] = x[i];
  }
};

template <class C>
struct SpreadPart {
  static constexpr int kTerms = 1;
  template <class F>
  static GK_HD void terms(const C* x, const C*, const C*, int64_t i, const F& f, const ActNumbers<C>&, C* out) {
    const C centred = x[i] - f.get(0, i);
    out[0] = centred * centred;
  }
};

template <Act A, class C>
struct ForwardPart {
  static constexpr int kValues = 1;
  template <class F>
  static GK_HD void values(const C* x, const C*, const C*, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C u = (x[i] - f.get(0, i)) * f.get(1, i) + f.get(2, i);
    out[0] = p.gain * act_derivative<A, 0>(u, p.alpha);
  }
};

template <Act A, class C>
struct BackwardPart {
  static constexpr int kTerms = kNormBackwardSums, kValues = 1;
  template <class F>
  static GK_HD void terms(const C* x, const C* g, const C*, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    norm_backward_terms(g[i] * (p.gain * act_derivative<A, 1>(u, p.alpha)), centred, out);
  }
  template <class F>
  static GK_HD void values(const C* x, const C* g, const C*, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    const C d = g[i] * (p.gain * act_derivative<A, 1>(u, p.alpha));
    out[0] = f.get(3, i) * d + f.get(4, i) * centred + f.get(5, i);
  }
};

template <Act A, class C>
struct SecondPart {
  static constexpr bool kSmooth = A != Act::linear && A != Act::relu && A != Act::lrelu;
  static constexpr int kTerms = kSmooth ? kNormSecondSums : kNormSecondSumsLinear, kValues = 2;
  template <class F>
  static GK_HD void terms(const C* x, const C* g, const C* v, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    const C h = kSmooth ? g[i] * (p.gain * act_derivative<A, 2>(u, p.alpha)) : C(0);
    norm_second_terms<kSmooth>(g[i] * (p.gain * act_derivative<A, 1>(u, p.alpha)), h, v[i], centred, out);
  }
  template <class F>
  static GK_HD void values(const C* x, const C* g, const C* v, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    const C slope = p.gain * act_derivative<A, 1>(u, p.alpha);
    const C t = f.get(3, i) * v[i] + f.get(4, i) * centred + f.get(5, i);
    out[0] = slope * t;
    out[1] = f.get(7, i) * (g[i] * slope) + f.get(8, i) * v[i] + f.get(9, i) * centred + f.get(10, i);
    if constexpr (kSmooth) out[1] += f.get(6, i) * (g[i] * (p.gain * act_derivative<A, 2>(u, p.alpha))) * t;
  }
};

// Adds a tile's terms: to totals[term] as a whole, or to sums[term * pitch + element].
template <class Part, class C, bool Each>
void reduce_tile(const C* const* in, int64_t n, const C* factors, int64_t pitch, const ActNumbers<C>& numbers,
                 double* totals, C* sums) {
  constexpr int kTerms = Part::kTerms;
  const C *x = in[0], *g = in[1], *v = in[2];
  const ActNumbers<C> p = numbers;
  const Factors<C, Each> f(factors, pitch);
  if constexpr (Each) {
    GK_IVDEP
    for (int64_t i = 0; i < n; ++i) {
      C terms[kTerms];
      Part::terms(x, g, v, i, f, p, terms);
      for (int k = 0; k < kTerms; ++k) sums[k * pitch + i] += terms[k];
    }
  } else {
    C lanes[kTerms][kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      GK_IVDEP
      for (int j = 0; j < kLanes; ++j) {
        C terms[kTerms];
        Part::terms(x, g, v, i + j, f, p, terms);
        for (int k = 0; k < kTerms; ++k) lanes[k][j] += terms[k];
      }
    }
    for (int j = 0; i + j < n; ++j) {
      C terms[kTerms];
      Part::terms(x, g, v, i + j, f, p, terms);
      for (int k = 0; k < kTerms; ++k) lanes[k][j] += terms[k];
    }
    for (int k = 0; k < kTerms; ++k) {
      for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lanes[k][j] += lanes[k][j + half];
      totals[k] += lanes[k][0];
    }
  }
}

template <class Part, class C, bool Each>
void map_tile(const C* const* in, int64_t n, const C* factors, int64_t pitch, const ActNumbers<C>& numbers,
              C* const* out) {
  const C *x = in[0], *g = in[1], *v = in[2];
  C *first = out[0], *second = out[1];
  const ActNumbers<C> p = numbers;
  const Factors<C, Each> f(factors, pitch);
  GK_IVDEP
  for (int64_t i = 0; i < n; ++i) {
    C values[Part::kValues];
    Part::values(x, g, v, i, f, p, values);
    first[i] = values[0];
    if constexpr (Part::kValues == 2) second[i] = values[1];
  }
}

template <class C, bool Each>
NormTiles<C> tiles_of(NormPass pass, Act act) {
  if (pass == NormPass::mean) return {reduce_tile<MeanPart<C>, C, Each>, nullptr, 1};
  if (pass == NormPass::spread) return {reduce_tile<SpreadPart<C>, C, Each>, nullptr, 1};
  NormTiles<C> tiles{};
  with_act(act, [&](auto a) {
    if (pass == NormPass::forward)
      tiles = {nullptr, map_tile<ForwardPart<a.value, C>, C, Each>, 0};
    else if (pass == NormPass::backward)
      tiles = {reduce_tile<BackwardPart<a.value, C>, C, Each>, map_tile<BackwardPart<a.value, C>, C, Each>,
               BackwardPart<a.value, C>::kTerms};
    else
      tiles = {reduce_tile<SecondPart<a.value, C>, C, Each>, map_tile<SecondPart<a.value, C>, C, Each>,
               SecondPart<a.value, C>::kTerms};
  });
  return tiles;
}

template <class C>
NormTiles<C> channel_tiles(NormPass pass, Act act) {
  return tiles_of<C, false>(pass, act);
}
template <class C>
NormTiles<C> row_tiles(NormPass pass, Act act) {
  return tiles_of<C, true>(pass, act);
}

// Adds the terms of each column to totals, by way of short sums.
template <class T, class C>
void reduce_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers,
                 double* totals) {
  C buffer[3][kStrip], sums[kMostTerms * kStrip];
  for (int64_t from = 0; from < r.rows; from += kFlush) {
    for (int64_t i = 0; i < tiles.terms * kStrip; ++i) sums[i] = 0;
    for (int64_t row = from; row < r.rows && row < from + kFlush; ++row) {
      const C* in[3];
      for (int k = 0; k < 3; ++k) in[k] = r.source[k] ? as_acc(r.at(k, row), buffer[k], r.width) : nullptr;
      tiles.reduce(in, r.width, factors, kStrip, numbers, nullptr, sums);
    }
    for (int64_t i = 0; i < tiles.terms * kStrip; ++i) totals[i] += sums[i];
  }
}

template <class T, class C>
void map_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers) {
  C buffer[3][kStrip], result[2][kStrip];
  for (int64_t row = 0; row < r.rows; ++row) {
    const C* in[3];
    for (int k = 0; k < 3; ++k) in[k] = r.source[k] ? as_acc(r.at(k, row), buffer[k], r.width) : nullptr;
    C* out[2] = {result[0], result[1]};
    if constexpr (std::is_same_v<T, C>)
      for (int k = 0; k < 2; ++k)
        if (r.target[k]) out[k] = r.target[k] + row * r.pitch;
    tiles.map(in, r.width, factors, kStrip, numbers, out);
    if constexpr (!std::is_same_v<T, C>)
      for (int k = 0; k < 2; ++k)
        if (r.target[k]) store_block(out[k], r.target[k] + row * r.pitch, r.width);
  }
}

// The mean of each column to totals[0], the sum of its squared deviations to totals[1]: blocks of rows that stay in the
// cache for both their passes, merged in double.
template <class T, class C>
void row_moments(const NormRows<T>& r, const NormTiles<C>& mean, const NormTiles<C>& spread, double* totals) {
  C centre[kMostFactors * kStrip] = {};
  double count = 0, *means = totals, *squares = totals + kStrip;
  for (int64_t i = 0; i < 2 * kStrip; ++i) totals[i] = 0;
  for (int64_t row = 0; row < r.rows; row += kMomentRows) {
    const int64_t n = r.rows - row < kMomentRows ? r.rows - row : kMomentRows;
    const NormRows<T> block{{r.at(0, row)}, {}, n, r.pitch, r.width};
    double sum[kStrip] = {}, square[kStrip] = {};
    reduce_rows(block, mean, centre, {}, sum);
    const double over = 1.0 / n, total = count + n, share = n / total, weight = count * share;
    for (int64_t i = 0; i < kStrip; ++i) centre[i] = C(sum[i] * over);
    reduce_rows(block, spread, centre, {}, square);
    for (int64_t i = 0; i < kStrip; ++i) {
      const double here = sum[i] * over, off = here - centre[i], delta = here - means[i];
      means[i] += delta * share;
      squares[i] += square[i] - n * off * off + delta * delta * weight;
    }
    count = total;
  }
}

// One channel of a contiguous [batch, channels, inner], as tiles of one plane: f(offset, length).
template <class F>
inline void each_tile(const NormShape& s, int64_t channel, F f) {
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t i = 0; i < s.inner; i += kTile)
      f((n * s.channels + channel) * s.inner + i, s.inner - i < kTile ? s.inner - i : kTile);
}

template <class T, class C>
void reduce_channel(const NormShape& s, int64_t channel, const NormTiles<C>& tiles, const T* const* source,
                    const C* factors, const ActNumbers<C>& numbers, double* totals) {
  C buffer[3][kTile];
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    const C* in[3];
    for (int k = 0; k < 3; ++k) in[k] = source[k] ? as_acc(source[k] + offset, buffer[k], n) : nullptr;
    tiles.reduce(in, n, factors, 0, numbers, totals, nullptr);
  });
}

template <class T, class C>
void map_channel(const NormShape& s, int64_t channel, const NormTiles<C>& tiles, const T* const* source,
                 T* const* target, const C* factors, const ActNumbers<C>& numbers) {
  C buffer[3][kTile], result[2][kTile];
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    const C* in[3];
    for (int k = 0; k < 3; ++k) in[k] = source[k] ? as_acc(source[k] + offset, buffer[k], n) : nullptr;
    C* out[2] = {result[0], result[1]};
    if constexpr (std::is_same_v<T, C>)
      for (int k = 0; k < 2; ++k)
        if (target[k]) out[k] = target[k] + offset;
    tiles.map(in, n, factors, 0, numbers, out);
    if constexpr (!std::is_same_v<T, C>)
      for (int k = 0; k < 2; ++k)
        if (target[k]) store_block(out[k], target[k] + offset, n);
  });
}

// As row_moments: a tile stays in the cache for both its passes.
template <class T, class C>
NormMoments channel_moments(const NormShape& s, int64_t channel, const NormTiles<C>& mean, const NormTiles<C>& spread,
                            const T* x) {
  C buffer[kTile];
  NormMoments all;
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    const C* in[3] = {as_acc(x + offset, buffer, n), nullptr, nullptr};
    double sum = 0, square = 0;
    C centre[kMostFactors] = {};
    mean.reduce(in, n, centre, 0, {}, &sum, nullptr);
    centre[0] = C(sum / n);
    spread.reduce(in, n, centre, 0, {}, &square, nullptr);
    const double here = sum / n, off = here - centre[0];
    all.add({double(n), here, square - n * off * off});
  });
  return all;
}
