// The loops of batch_norm_act, compiled once for each instruction set (foreach_isa.h).
//
// A tile is at most kTile numbers of each input as accumulation-type numbers. Its factors are one set for all
// (Each = false: a tile of one channel) or one set an element (a tile across channels, the layout of channels_last).
#include "cpu/batch_norm_act_parts.h"

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

// Adds a tile's terms: to totals[term] as a whole, or to sums[term * pitch + element].
template <class Part, class C, bool Each>
void reduce_tile(const NormInputs<C>& inputs, int64_t n, const C* factors, int64_t pitch, const ActNumbers<C>& numbers,
                 double* totals, C* sums) {
  constexpr int kTerms = Part::kTerms;
  const NormInputs<C> in = inputs;
  const ActNumbers<C> p = numbers;
  const Factors<C, Each> f(factors, pitch);
  if constexpr (Each) {
    GK_IVDEP
    for (int64_t i = 0; i < n; ++i) {
      C terms[kTerms];
      Part::terms(in, i, f, p, terms);
      for (int k = 0; k < kTerms; ++k) sums[k * pitch + i] += terms[k];
    }
  } else {
    C lanes[kTerms][kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      GK_IVDEP
      for (int j = 0; j < kLanes; ++j) {
        C terms[kTerms];
        Part::terms(in, i + j, f, p, terms);
        for (int k = 0; k < kTerms; ++k) lanes[k][j] += terms[k];
      }
    }
    for (int j = 0; i + j < n; ++j) {
      C terms[kTerms];
      Part::terms(in, i + j, f, p, terms);
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
void map_tile(const NormInputs<C>& inputs, int64_t n, const C* factors, int64_t pitch, const ActNumbers<C>& numbers,
              C* const* out) {
  const NormInputs<C> in = inputs;
  C *first = out[0], *second = out[1], *third = out[2], *fourth = out[3];
  const ActNumbers<C> p = numbers;
  const Factors<C, Each> f(factors, pitch);
  GK_IVDEP
  for (int64_t i = 0; i < n; ++i) {
    C values[kMostTargets];
    Part::values(in, i, f, p, values);
    if constexpr (Part::kWrites & 1) first[i] = values[0];
    if constexpr (Part::kWrites & 2) second[i] = values[1];
    if constexpr (Part::kWrites & 4) third[i] = values[2];
    if constexpr (Part::kWrites & 8) fourth[i] = values[3];
  }
}

template <class C, bool Each, bool kPixels>
NormTiles<C> tiles_of(NormPass pass, Act act) {
  if (pass == NormPass::mean) return {reduce_tile<MeanPart<C>, C, Each>, nullptr, 1, 1 << kX};
  if (pass == NormPass::spread) return {reduce_tile<SpreadPart<C>, C, Each>, nullptr, 1, 1 << kX};
  NormTiles<C> tiles{};
  with_act(act, [&](auto a) {
    using Forward = ForwardPart<a.value, C, kPixels>;
    using Backward = BackwardPart<a.value, C, kPixels>;
    using Second = SecondPart<a.value, C, kPixels>;
    if (pass == NormPass::forward)
      tiles = {nullptr, map_tile<Forward, C, Each>, 0, Forward::kReads};
    else if (pass == NormPass::backward)
      tiles = {reduce_tile<Backward, C, Each>, map_tile<Backward, C, Each>, Backward::kTerms, Backward::kReads};
    else
      tiles = {reduce_tile<Second, C, Each>, map_tile<Second, C, Each>, Second::kTerms, Second::kReads};
  });
  return tiles;
}

template <class C>
NormTiles<C> channel_tiles(NormPass pass, Act act, bool pixels) {
  return pixels ? tiles_of<C, false, true>(pass, act) : tiles_of<C, false, false>(pass, act);
}
template <class C>
NormTiles<C> row_tiles(NormPass pass, Act act, bool pixels) {
  return pixels ? tiles_of<C, true, true>(pass, act) : tiles_of<C, true, false>(pass, act);
}

// A tile's inputs as accumulation-type numbers: what a pass reads and nobody gave is zero.
template <class C, int64_t kMost>
struct TileInputs {
  C buffer[kMostSources][kMost];
  NormInputs<C> in;

  template <class T>
  TileInputs(const T* const* source, unsigned reads) : in{} {
    for (int k = 0; k < kMostSources; ++k)
      if (!source[k] && reads >> k & 1) {
        memset(buffer[k], 0, sizeof buffer[k]);
        in.at[k] = buffer[k];
      }
  }
  template <class T>
  const NormInputs<C>& at(const T* const* source, unsigned reads, int64_t offset, int64_t n) {
    for (int k = 0; k < kMostSources; ++k)
      if (source[k] && reads >> k & 1) in.at[k] = as_acc(source[k] + offset, buffer[k], n);
    return in;
  }
};

// Where a tile's values go: the targets themselves, or blocks to be rounded to them.
template <class T, class C, int64_t kMost>
struct TileOutputs {
  C block[kMostTargets][kMost];
  C* out[kMostTargets];

  C* const* at(T* const* target, int64_t offset) {
    for (int k = 0; k < kMostTargets; ++k) {
      out[k] = block[k];
      if constexpr (std::is_same_v<T, C>)
        if (target[k]) out[k] = target[k] + offset;
    }
    return out;
  }
  void store(T* const* target, int64_t offset, int64_t n) {
    if constexpr (!std::is_same_v<T, C>)
      for (int k = 0; k < kMostTargets; ++k)
        if (target[k]) store_block(block[k], target[k] + offset, n);
  }
};

// Adds the terms of each column to totals, by way of short sums.
template <class T, class C>
void reduce_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers,
                 double* totals) {
  TileInputs<C, kStrip> inputs(r.source, tiles.reads);
  C sums[kMostTerms * kStrip];
  for (int64_t from = 0; from < r.rows; from += kFlush) {
    for (int64_t i = 0; i < tiles.terms * kStrip; ++i) sums[i] = 0;
    for (int64_t row = from; row < r.rows && row < from + kFlush; ++row)
      tiles.reduce(inputs.at(r.source, tiles.reads, row * r.pitch, r.width), r.width, factors, kStrip, numbers, nullptr,
                   sums);
    for (int64_t i = 0; i < tiles.terms * kStrip; ++i) totals[i] += sums[i];
  }
}

template <class T, class C>
void map_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers) {
  TileInputs<C, kStrip> inputs(r.source, tiles.reads);
  TileOutputs<T, C, kStrip> outputs;
  for (int64_t row = 0; row < r.rows; ++row) {
    const int64_t offset = row * r.pitch;
    tiles.map(inputs.at(r.source, tiles.reads, offset, r.width), r.width, factors, kStrip, numbers,
              outputs.at(r.target, offset));
    outputs.store(r.target, offset, r.width);
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
    const NormRows<T> block{{r.source[kX] + row * r.pitch}, {}, n, r.pitch, r.width};
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
  TileInputs<C, kTile> inputs(source, tiles.reads);
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    tiles.reduce(inputs.at(source, tiles.reads, offset, n), n, factors, 0, numbers, totals, nullptr);
  });
}

template <class T, class C>
void map_channel(const NormShape& s, int64_t channel, const NormTiles<C>& tiles, const T* const* source,
                 T* const* target, const C* factors, const ActNumbers<C>& numbers) {
  TileInputs<C, kTile> inputs(source, tiles.reads);
  TileOutputs<T, C, kTile> outputs;
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    tiles.map(inputs.at(source, tiles.reads, offset, n), n, factors, 0, numbers, outputs.at(target, offset));
    outputs.store(target, offset, n);
  });
}

// As row_moments: a tile stays in the cache for both its passes.
template <class T, class C>
NormMoments channel_moments(const NormShape& s, int64_t channel, const NormTiles<C>& mean, const NormTiles<C>& spread,
                            const T* const* source) {
  TileInputs<C, kTile> inputs(source, mean.reads);
  NormMoments all;
  each_tile(s, channel, [&](int64_t offset, int64_t n) {
    const NormInputs<C>& in = inputs.at(source, mean.reads, offset, n);
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
