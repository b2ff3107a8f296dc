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

// Adds the terms of kRows rows, row(r) the inputs of each, to sums[term * pitch + element].
template <class Part, int kRows, class C, class Row, class F>
inline void add_rows(Row row, int64_t n, const F& f, const ActNumbers<C>& p, double* sums, int64_t pitch) {
  NormInputs<C> in[kRows];
  for (int r = 0; r < kRows; ++r) in[r] = row(r);
  GK_IVDEP
  for (int64_t i = 0; i < n; ++i) {
    double total[Part::kTerms];
    for (int k = 0; k < Part::kTerms; ++k) total[k] = sums[k * pitch + i];
    GK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      double terms[Part::kTerms];
      Part::terms(in[r], i, f, p, terms);
      for (int k = 0; k < Part::kTerms; ++k) total[k] += terms[k];
    }
    for (int k = 0; k < Part::kTerms; ++k) sums[k * pitch + i] = total[k];
  }
}

// Adds the terms of each column of `rows` rows of n elements to totals[term * kStrip + column].
template <class Part, class C>
void reduce_columns(const NormInputs<C>& in, int64_t n, int64_t rows, const C* factors, const ActNumbers<C>& p,
                    double* totals) {
  const Factors<C, true> f(factors, kStrip);
  int64_t row = 0;
  const auto at = [&](int64_t r) { return in.row(row + r); };
  for (; row + Part::kAtOnce <= rows; row += Part::kAtOnce) add_rows<Part, Part::kAtOnce>(at, n, f, p, totals, kStrip);
  for (; row < rows; ++row) add_rows<Part, 1>(at, n, f, p, totals, kStrip);
}

// Adds the terms of n elements to totals[term], by way of lanes.
template <class Part, class C>
void reduce_tile(const NormInputs<C>& in, int64_t n, int64_t, const C* factors, const ActNumbers<C>& p,
                 double* totals) {
  const Factors<C, false> f(factors, 0);
  double lanes[Part::kTerms * kLanes] = {};
  int64_t i = 0;
  const auto at = [&](int64_t r) { return in.from(i + r * kLanes); };
  for (; i + Part::kAtOnce * kLanes <= n; i += Part::kAtOnce * kLanes)
    add_rows<Part, Part::kAtOnce>(at, kLanes, f, p, lanes, kLanes);
  for (; i < n; i += kLanes) add_rows<Part, 1>(at, n - i < kLanes ? n - i : kLanes, f, p, lanes, kLanes);
  for (int k = 0; k < Part::kTerms; ++k)
    for (int j = 0; j < kLanes; ++j) totals[k] += lanes[k * kLanes + j];
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

template <class Part, class C, bool Each>
constexpr auto reduce_of = Each ? reduce_columns<Part, C> : reduce_tile<Part, C>;

template <class C, bool Each, bool kPixels>
NormTiles<C> tiles_of(NormPass pass, Act act) {
  if (pass == NormPass::mean) return {reduce_of<MeanPart<C>, C, Each>, nullptr, 1, 1 << kX};
  if (pass == NormPass::spread) return {reduce_of<SpreadPart<C>, C, Each>, nullptr, 1, 1 << kX};
  NormTiles<C> tiles{};
  with_act(act, [&](auto a) {
    using Forward = ForwardPart<a.value, C, kPixels>;
    using Backward = BackwardPart<a.value, C, kPixels>;
    using Second = SecondPart<a.value, C, kPixels>;
    if (pass == NormPass::forward)
      tiles = {nullptr, map_tile<Forward, C, Each>, 0, Forward::kReads};
    else if (pass == NormPass::backward)
      tiles = {reduce_of<Backward, C, Each>, map_tile<Backward, C, Each>, Backward::kTerms, Backward::kReads};
    else
      tiles = {reduce_of<Second, C, Each>, map_tile<Second, C, Each>, Second::kTerms, Second::kReads};
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
    return rows_at(source, reads, offset, n, 1, 0);
  }
  // `rows` rows of n, `pitch` apart in memory.
  template <class T>
  const NormInputs<C>& rows_at(const T* const* source, unsigned reads, int64_t offset, int64_t n, int64_t rows,
                               int64_t pitch) {
    for (int k = 0; k < kMostSources; ++k)
      if (source[k] && reads >> k & 1) {
        in.at[k] = as_acc(source[k] + offset, buffer[k], n);
        in.step[k] = std::is_same_v<T, C> ? pitch : kStrip;
        for (int64_t row = 1; row < rows; ++row) as_acc(source[k] + offset + row * pitch, buffer[k] + row * kStrip, n);
      }
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

// Adds the terms of each column to totals.
template <class T, class C>
void reduce_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers,
                 double* totals) {
  TileInputs<C, kRowsAtOnce * kStrip> inputs(r.source, tiles.reads);
  for (int64_t row = 0; row < r.rows; row += kRowsAtOnce) {
    const int64_t rows = r.rows - row < kRowsAtOnce ? r.rows - row : kRowsAtOnce;
    const auto& in = inputs.rows_at(r.source, tiles.reads, row * r.pitch, r.width, rows, r.pitch);
    tiles.reduce(in, r.width, rows, factors, numbers, totals);
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
    tiles.reduce(inputs.at(source, tiles.reads, offset, n), n, 1, factors, numbers, totals);
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
    mean.reduce(in, n, 1, centre, {}, &sum);
    centre[0] = C(sum / n);
    spread.reduce(in, n, 1, centre, {}, &square);
    const double here = sum / n, off = here - centre[0];
    all.add({double(n), here, square - n * off * off});
  });
  return all;
}
