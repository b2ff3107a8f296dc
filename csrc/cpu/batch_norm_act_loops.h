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
  static constexpr int kTerms = NormBackward::kSums, kValues = 1;
  template <class F>
  static GK_HD void terms(const C* x, const C* g, const C*, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    out[0] = g[i] * (p.gain * act_derivative<A, 1>(u, p.alpha));
    out[1] = out[0] * centred;
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
  static constexpr int kTerms = kSmooth ? NormSecond::kSums : NormSecond::kSumsLinear, kValues = 2;
  template <class F>
  static GK_HD void terms(const C* x, const C* g, const C* v, int64_t i, const F& f, const ActNumbers<C>& p, C* out) {
    const C centred = x[i] - f.get(0, i);
    const C u = centred * f.get(1, i) + f.get(2, i);
    out[0] = g[i] * (p.gain * act_derivative<A, 1>(u, p.alpha));
    out[1] = out[0] * centred;
    out[2] = v[i];
    out[3] = v[i] * centred;
    out[4] = out[0] * v[i];
    if constexpr (kSmooth) {
      out[5] = g[i] * (p.gain * act_derivative<A, 2>(u, p.alpha));
      out[6] = out[5] * centred;
      out[7] = out[6] * centred;
      out[8] = out[5] * v[i];
      out[9] = out[8] * centred;
    }
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

// `planes` runs of `run` numbers, `stride` apart, as one tile; x itself where that is one already.
template <class T, class C>
inline const C* gather(const T* x, int64_t planes, int64_t run, int64_t stride, C* buffer) {
  if (planes == 1) return as_acc(x, buffer, run);
  for (int64_t k = 0; k < planes; ++k) {
    const T* from = x + k * stride;
    C* to = buffer + k * run;
    int64_t i = 0;
    for (; i + 16 <= run; i += 16) load_block(from + i, to + i, 16);
    if (i < run) load_block(from + i, to + i, run - i);
  }
  return buffer;
}

template <class T, class C>
inline void scatter(const C* tile, int64_t planes, int64_t run, int64_t stride, T* y) {
  if constexpr (std::is_same_v<T, C>)
    if (tile == y) return;
  for (int64_t k = 0; k < planes; ++k) {
    const C* from = tile + k * run;
    T* to = y + k * stride;
    int64_t i = 0;
    for (; i + 16 <= run; i += 16) store_block(from + i, to + i, 16);
    if (i < run) store_block(from + i, to + i, run - i);
  }
}

// Calls f(offset, planes, run) for the tiles of one channel of a contiguous [batch, channels, inner].
template <class F>
inline void each_tile(const NormShape& s, int64_t channel, F f) {
  const int64_t stride = s.channels * s.inner;
  if (s.inner >= kTile) {
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t i = 0; i < s.inner; i += kTile)
        f(n * stride + channel * s.inner + i, 1, s.inner - i < kTile ? s.inner - i : kTile);
  } else {
    const int64_t group = kTile / s.inner;
    for (int64_t n = 0; n < s.batch; n += group)
      f(n * stride + channel * s.inner, s.batch - n < group ? s.batch - n : group, s.inner);
  }
}

template <class T, class C>
struct ChannelTile {
  C buffer[3][kTile];
  const C* in[3];
  void read(const T* const* source, int64_t offset, int64_t planes, int64_t run, int64_t stride) {
    for (int k = 0; k < 3; ++k)
      in[k] = source[k] ? gather(source[k] + offset, planes, run, stride, buffer[k]) : nullptr;
  }
};

template <class T, class C>
void reduce_channel(const NormShape& s, int64_t channel, const NormTiles<C>& tiles, const T* const* source,
                    const C* factors, const ActNumbers<C>& numbers, double* totals) {
  ChannelTile<T, C> tile;
  each_tile(s, channel, [&](int64_t offset, int64_t planes, int64_t run) {
    tile.read(source, offset, planes, run, s.channels * s.inner);
    tiles.reduce(tile.in, planes * run, factors, 0, numbers, totals, nullptr);
  });
}

template <class T, class C>
void map_channel(const NormShape& s, int64_t channel, const NormTiles<C>& tiles, const T* const* source,
                 const C* factors, const ActNumbers<C>& numbers, T* const* target) {
  ChannelTile<T, C> tile;
  C result[2][kTile];
  each_tile(s, channel, [&](int64_t offset, int64_t planes, int64_t run) {
    tile.read(source, offset, planes, run, s.channels * s.inner);
    C* out[2] = {result[0], result[1]};
    if constexpr (std::is_same_v<T, C>)
      for (int k = 0; k < 2; ++k)
        if (planes == 1 && target[k]) out[k] = target[k] + offset;
    tiles.map(tile.in, planes * run, factors, 0, numbers, out);
    for (int k = 0; k < 2; ++k)
      if (target[k]) scatter(out[k], planes, run, s.channels * s.inner, target[k] + offset);
  });
}

// Mean of one channel and its sum of squared deviations: tile by tile in two passes, merged in double.
template <class T>
NormMoments channel_moments(const NormShape& s, int64_t channel, const T* x) {
  using C = at::opmath_type<T>;
  const NormTiles<C> first = tiles_of<C, false>(NormPass::mean, Act::linear);
  const NormTiles<C> second = tiles_of<C, false>(NormPass::spread, Act::linear);
  const T* source[3] = {x, nullptr, nullptr};
  ChannelTile<T, C> tile;
  NormMoments all;
  each_tile(s, channel, [&](int64_t offset, int64_t planes, int64_t run) {
    tile.read(source, offset, planes, run, s.channels * s.inner);
    double sum = 0, squares = 0;
    const int64_t n = planes * run;
    C centre[kMostFactors] = {};
    first.reduce(tile.in, n, centre, 0, {}, &sum, nullptr);
    centre[0] = C(sum / n);
    second.reduce(tile.in, n, centre, 0, {}, &squares, nullptr);
    all.add(NormMoments::about(centre[0], sum, squares, n));
  });
  return all;
}

// Rows [begin, end) of [rows, channels]: terms added to totals[term * channels + channel].
template <class T, class C>
void reduce_rows(int64_t channels, int64_t begin, int64_t end, const NormTiles<C>& tiles, const T* const* source,
                 const C* factors, const ActNumbers<C>& numbers, double* totals) {
  C buffer[3][kStrip], sums[kMostTerms * kStrip], here[kMostFactors * kStrip];
  for (int64_t c = 0; c < channels; c += kStrip) {
    const int64_t n = channels - c < kStrip ? channels - c : kStrip;
    for (int j = 0; j < kMostFactors; ++j)
      for (int64_t i = 0; i < n; ++i) here[j * kStrip + i] = factors[j * channels + c + i];
    for (int64_t from = begin; from < end; from += kFlush) {
      for (int64_t i = 0; i < tiles.terms * kStrip; ++i) sums[i] = 0;
      for (int64_t row = from; row < end && row < from + kFlush; ++row) {
        const C* in[3];
        for (int k = 0; k < 3; ++k)
          in[k] = source[k] ? as_acc(source[k] + row * channels + c, buffer[k], n) : nullptr;
        tiles.reduce(in, n, here, kStrip, numbers, nullptr, sums);
      }
      for (int k = 0; k < tiles.terms; ++k)
        for (int64_t i = 0; i < n; ++i) totals[k * channels + c + i] += sums[k * kStrip + i];
    }
  }
}

template <class T, class C>
void map_rows(int64_t channels, int64_t begin, int64_t end, const NormTiles<C>& tiles, const T* const* source,
              const C* factors, const ActNumbers<C>& numbers, T* const* target) {
  C buffer[3][kStrip], result[2][kStrip];
  for (int64_t row = begin; row < end; ++row)
    for (int64_t c = 0; c < channels; c += kStrip) {
      const int64_t n = channels - c < kStrip ? channels - c : kStrip, at = row * channels + c;
      const C* in[3];
      for (int k = 0; k < 3; ++k) in[k] = source[k] ? as_acc(source[k] + at, buffer[k], n) : nullptr;
      C* out[2] = {result[0], result[1]};
      if constexpr (std::is_same_v<T, C>)
        for (int k = 0; k < 2; ++k)
          if (target[k]) out[k] = target[k] + at;
      tiles.map(in, n, factors + c, channels, numbers, out);
      for (int k = 0; k < 2; ++k)
        if (target[k]) scatter(out[k], 1, n, 0, target[k] + at);
    }
}

// Adds to `moments` [channels] those of rows [begin, end); scratch: `sums` [2 * channels], `centre` [kMostFactors * channels].
template <class T, class C>
void row_moments(int64_t channels, int64_t begin, int64_t end, const T* x, double* sums, C* centre,
                 NormMoments* moments) {
  const NormTiles<C> first = tiles_of<C, true>(NormPass::mean, Act::linear);
  const NormTiles<C> second = tiles_of<C, true>(NormPass::spread, Act::linear);
  const T* source[3] = {x, nullptr, nullptr};
  double* squares = sums + channels;
  for (int64_t c = 0; c < 2 * channels; ++c) sums[c] = 0;
  for (int64_t c = 0; c < kMostFactors * channels; ++c) centre[c] = 0;
  reduce_rows(channels, begin, end, first, source, centre, {}, sums);
  for (int64_t c = 0; c < channels; ++c) centre[c] = C(sums[c] / (end - begin));
  reduce_rows(channels, begin, end, second, source, centre, {}, squares);
  for (int64_t c = 0; c < channels; ++c) moments[c].add(NormMoments::about(centre[c], sums[c], squares[c], end - begin));
}
