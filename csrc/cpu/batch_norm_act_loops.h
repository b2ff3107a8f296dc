// The loops of batch_norm_act, compiled once for each instruction set (foreach_isa.h).
//
// A tile is at most kTile numbers of each input as accumulation-type numbers. Its factors are one set for all
// (Each = false: a tile of one channel) or one set an element (a tile across channels, the layout of channels_last).
#include "cpu/batch_norm_act_moments.h"
#include "cpu/batch_norm_act_parts.h"

template <class C, bool Each>
struct Factors;

template <class C>
struct Factors<C, false> {
  C value[kMostFactors];
  explicit Factors(const C* source) {
    for (int j = 0; j < kMostFactors; ++j) value[j] = source[j];
  }
  C get(int j, int64_t) const { return value[j]; }
};

template <class C>
struct Factors<C, true> {
  const C* source;
  explicit Factors(const C* source) : source(source) {}
  C get(int j, int64_t i) const { return source[j * kStrip + i]; }
};

// Adds the terms of kRows rows, row(r) the inputs of each, to sums[term * pitch + element]; rows by sums of type S.
template <class Part, class S, int kRows, class C, class Row, class F>
inline void add_rows(Row row, int64_t n, const F& f, const ActNumbers<C>& p, double* sums, int64_t pitch) {
  NormInputs<C> in[kRows];
  for (int r = 0; r < kRows; ++r) in[r] = row(r);
  GK_IVDEP
  for (int64_t i = 0; i < n; ++i) {
    S total[Part::kTerms] = {};
    GK_UNROLL
    for (int r = 0; r < kRows; ++r) {
      S terms[Part::kTerms];
      Part::terms(in[r], i, f, p, terms);
      for (int k = 0; k < Part::kTerms; ++k) total[k] += terms[k];
    }
    for (int k = 0; k < Part::kTerms; ++k) sums[k * pitch + i] += total[k];
  }
}

// Adds the terms of each column of `rows` rows of n elements to totals[term * kStrip + column].
template <class Part, class S, class C>
void reduce_columns(const NormInputs<C>& in, int64_t n, int64_t rows, const C* factors, const ActNumbers<C>& p,
                    double* totals) {
  const Factors<C, true> f(factors);
  int64_t row = 0;
  const auto at = [&](int64_t r) { return in.row(row + r); };
  for (; row + Part::kAtOnce <= rows; row += Part::kAtOnce)
    add_rows<Part, S, Part::kAtOnce>(at, n, f, p, totals, kStrip);
  for (; row < rows; ++row) add_rows<Part, S, 1>(at, n, f, p, totals, kStrip);
}

// Adds the terms of each of `planes` planes of n elements to totals[plane * kMostTerms + term], by way of lanes.
template <class Part, class S, class C>
void reduce_tile(const NormInputs<C>& in, int64_t n, int64_t planes, const C* factors, const ActNumbers<C>& p,
                 double* totals) {
  for (int64_t plane = 0; plane < planes; ++plane) {
    const Factors<C, false> f(factors + plane * kMostFactors);
    alignas(kLine) double lanes[Part::kTerms * kLanes] = {};
    const int64_t end = (plane + 1) * n;
    int64_t i = plane * n;
    const auto at = [&](int64_t r) { return in.from(i + r * kLanes); };
    for (; i + Part::kAtOnce * kLanes <= end; i += Part::kAtOnce * kLanes)
      add_rows<Part, S, Part::kAtOnce>(at, kLanes, f, p, lanes, kLanes);
    for (; i + kLanes <= end; i += kLanes) add_rows<Part, S, 1>(at, kLanes, f, p, lanes, kLanes);
    if (i < end) add_rows<Part, S, 1>(at, end - i, f, p, lanes, kLanes);
    for (int k = 0; k < Part::kTerms; ++k) totals[plane * kMostTerms + k] += sum_lanes(lanes + k * kLanes);
  }
}

template <class Part, class C, bool Each>
void map_tile(const NormInputs<C>& inputs, int64_t n, int64_t planes, const C* factors, const ActNumbers<C>& numbers,
              C* const* out) {
  const ActNumbers<C> p = numbers;
  for (int64_t plane = 0; plane < planes; ++plane) {
    const NormInputs<C> in = inputs.from(plane * n);
    C *first = out[0] + plane * n, *second = out[1] + plane * n, *third = out[2] + plane * n,
      *fourth = out[3] + plane * n;
    const Factors<C, Each> f(factors + plane * kMostFactors);
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
}

template <class Part, class S, class C, bool Each>
constexpr auto reduce_of = Each ? reduce_columns<Part, S, C> : reduce_tile<Part, S, C>;

// `narrow`: the numbers have 16 bits, beside which a few terms added as float are as good as exact.
template <class C, bool Each, bool kPixels>
NormTiles<C> tiles_of(NormPass pass, Act act, bool narrow) {
  NormTiles<C> tiles{};
  with_act(act, [&](auto a) {
    using Forward = ForwardPart<a.value, C, kPixels>;
    using Backward = BackwardPart<a.value, C, kPixels>;
    using Second = SecondPart<a.value, C, kPixels>;
    using Few = std::conditional_t<(Backward::kAtOnce > 1), C, double>;
    if (pass == NormPass::forward)
      tiles = {nullptr, map_tile<Forward, C, Each>, 0, Forward::kReads};
    else if (pass == NormPass::backward)
      tiles = {narrow ? reduce_of<Backward, Few, C, Each> : reduce_of<Backward, double, C, Each>,
               map_tile<Backward, C, Each>, Backward::kTerms, Backward::kReads};
    else
      tiles = {reduce_of<Second, double, C, Each>, map_tile<Second, C, Each>, Second::kTerms, Second::kReads};
  });
  return tiles;
}

template <class C>
NormTiles<C> channel_tiles(NormPass pass, Act act, bool pixels, bool narrow) {
  return pixels ? tiles_of<C, false, true>(pass, act, narrow) : tiles_of<C, false, false>(pass, act, narrow);
}
template <class C>
NormTiles<C> row_tiles(NormPass pass, Act act, bool pixels, bool narrow) {
  return pixels ? tiles_of<C, true, true>(pass, act, narrow) : tiles_of<C, true, false>(pass, act, narrow);
}

// A tile's inputs as accumulation-type numbers: what a pass reads and nobody gave is zero.
template <class C, int64_t kMost>
struct TileInputs {
  alignas(kLine) C buffer[kMostSources][kMost];
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
  alignas(kLine) C block[kMostTargets][kMost];
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
  each_few_rows(r, [&](int64_t row, int64_t rows) {
    const auto& in = inputs.rows_at(r.source, tiles.reads, row * r.pitch, r.width, rows, r.pitch);
    tiles.reduce(in, r.width, rows, factors, numbers, totals);
  });
}

template <class T, class C>
void map_rows(const NormRows<T>& r, const NormTiles<C>& tiles, const C* factors, const ActNumbers<C>& numbers) {
  TileInputs<C, kStrip> inputs(r.source, tiles.reads);
  TileOutputs<T, C, kStrip> outputs;
  for (int64_t row = 0; row < r.rows; ++row) {
    const int64_t offset = row * r.pitch;
    tiles.map(inputs.at(r.source, tiles.reads, offset, r.width), r.width, 1, factors, numbers,
              outputs.at(r.target, offset));
    outputs.store(r.target, offset, r.width);
  }
}

// `planes` planes of n elements that lie together, a tile of them; factors and totals are [planes, ..].
template <class T, class C>
void reduce_planes(int64_t n, int64_t planes, const NormTiles<C>& tiles, const T* const* source, const C* factors,
                   const ActNumbers<C>& numbers, double* totals) {
  TileInputs<C, kTile> inputs(source, tiles.reads);
  tiles.reduce(inputs.at(source, tiles.reads, 0, n * planes), n, planes, factors, numbers, totals);
}

template <class T, class C>
void map_planes(int64_t n, int64_t planes, const NormTiles<C>& tiles, const T* const* source, T* const* target,
                const C* factors, const ActNumbers<C>& numbers) {
  TileInputs<C, kTile> inputs(source, tiles.reads);
  TileOutputs<T, C, kTile> outputs;
  tiles.map(inputs.at(source, tiles.reads, 0, n * planes), n, planes, factors, numbers, outputs.at(target, 0));
  outputs.store(target, 0, n * planes);
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
    tiles.map(inputs.at(source, tiles.reads, offset, n), n, 1, factors, numbers, outputs.at(target, offset));
    outputs.store(target, offset, n);
  });
}
