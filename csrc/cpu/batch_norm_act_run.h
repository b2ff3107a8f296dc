// How batch_norm_act goes over a tensor, one way for each layout. The order of every sum depends on sizes alone.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <vector>

#include "batch_norm_act.h"
#include "bias_act_op.h"

#if defined(__clang__)
#define GK_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#define GK_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define GK_IVDEP _Pragma("GCC ivdep")
#define GK_UNROLL _Pragma("GCC unroll 4")
#else
#define GK_IVDEP
#define GK_UNROLL
#endif

// A space of its own: the loops' names must be no other operator's.
namespace gk::batch_norm {

constexpr int kLanes = 32, kMostFactors = 8, kMostTerms = kPixelSecondSums;
constexpr int64_t kTile = 512, kStrip = 256, kMomentRows = 64, kRowsAtOnce = 4;

enum class NormPass { mean, spread, forward, backward, second };
enum NormSource { kX, kG, kV, kScale, kShift, kP, kQ, kMostSources };
enum NormTarget { kScaleGrad = 2, kShiftGrad, kMostTargets };  // 0 and 1 are y, gx or those of the second derivative

template <class C>
struct ActNumbers {
  C alpha, gain;
};

template <class C>
struct NormInputs {
  const C* at[kMostSources];
  int64_t step[kMostSources];  // from a row to the next

  NormInputs from(int64_t offset) const {
    NormInputs out{};
    for (int k = 0; k < kMostSources; ++k) out.at[k] = at[k] ? at[k] + offset : nullptr;
    return out;
  }
  NormInputs row(int64_t r) const {
    NormInputs out{};
    for (int k = 0; k < kMostSources; ++k) out.at[k] = at[k] ? at[k] + r * step[k] : nullptr;
    return out;
  }
};

// [groups * batch, channels, inner]. A cell is a group's part of a channel; `shared`: the cells of a channel are one
// set.
struct NormShape {
  int64_t groups, batch, channels, inner;
  bool rows;  // channels_last: [groups * batch * inner, channels] in memory
  bool shared;

  int64_t cells() const { return groups * channels; }
  int64_t sets() const { return shared ? channels : cells(); }
  int64_t set_of(int64_t cell) const { return shared ? cell % channels : cell; }
  int64_t cell_size() const { return batch * inner; }
  int64_t set_size() const { return (shared ? groups : 1) * cell_size(); }
};

template <class C>
struct NormTiles {
  void (*reduce)(const NormInputs<C>&, int64_t, int64_t, const C*, const ActNumbers<C>&, double*);
  void (*map)(const NormInputs<C>&, int64_t, const C*, int64_t, const ActNumbers<C>&, C* const*);
  int terms;
  unsigned reads;  // bits by NormSource
};

struct NormMoments {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean

  void add(const NormMoments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    squares += other.squares + delta * delta * (count * other.count / total);
    count = total;
  }
};

// The cells of a set, `step` apart by number: the sums of each, and room for the factors of each, `pitch` apart.
template <class C>
struct NormSet {
  int64_t first, step, count;
  const double* sums_at;
  int64_t sums_step;
  C* factors_at;
  int64_t factors_step, pitch;

  int64_t cell(int64_t k) const { return first + k * step; }
  const double* sums(int64_t k) const { return sums_at + k * sums_step; }
  C& factor(int64_t k, int j) const { return factors_at[k * factors_step + j * pitch]; }
};

// Tensors as rows of at most kStrip columns, `pitch` apart; factors and totals are [.., kStrip].
template <class T>
struct NormRows {
  const T* source[kMostSources];
  T* target[kMostTargets];
  int64_t rows, pitch, width;
};

}  // namespace gk::batch_norm

#define GK_ISA_SPACE gk::batch_norm
#define GK_ISA_FILE "cpu/batch_norm_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::batch_norm {

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

// What one call computes: sums of a kind, then each set's factors from them, then values.
enum class Sums { none, moments, terms };

template <class T>
struct NormTensors {
  const T* source[kMostSources] = {};
  T* target[kMostTargets] = {};

  NormTensors from(int64_t offset) const {
    NormTensors out = *this;
    for (auto& t : out.source) t = t ? t + offset : nullptr;
    for (auto& t : out.target) t = t ? t + offset : nullptr;
    return out;
  }
  bool writes() const {
    return std::any_of(target, target + kMostTargets, [](const T* t) { return t != nullptr; });
  }
};

template <class T, class C>
struct Job {
  NormShape shape;
  Sums kind;
  NormTiles<C> tiles, mean, spread;  // of rows or of channels, as the layout asks for
  NormTensors<T> tensors;
  ActNumbers<C> numbers;

  Job(const NormShape& s, bool by_rows, NormPass pass, Act act, bool pixels, Sums kind, double alpha, double gain,
      const NormTensors<T>& tensors)
      : shape(s), kind(kind), tensors(tensors), numbers{C(alpha), C(gain)} {
    const auto of = [&](NormPass p) {
      return by_rows ? GK_ISA_CALL(gk::batch_norm, row_tiles<C>, p, act, pixels)
                     : GK_ISA_CALL(gk::batch_norm, channel_tiles<C>, p, act, pixels);
    };
    tiles = of(pass), mean = of(NormPass::mean), spread = of(NormPass::spread);
  }
  int sums() const { return kind == Sums::moments ? 2 : kind == Sums::terms ? tiles.terms : 0; }

  NormRows<T> strip(int64_t offset, int64_t rows, int64_t pitch, int64_t width) const {
    const auto at = tensors.from(offset);
    NormRows<T> out{{}, {}, rows, pitch, width};
    std::copy(at.source, at.source + kMostSources, out.source);
    std::copy(at.target, at.target + kMostTargets, out.target);
    return out;
  }
  // totals: [kMostTerms, kStrip], zero at first.
  void sum_strip(const NormRows<T>& strip, const C* factors, double* totals) const {
    if (kind == Sums::moments) GK_ISA_CALL(gk::batch_norm, row_moments, strip, mean, spread, totals);
    if (kind == Sums::terms) GK_ISA_CALL(gk::batch_norm, reduce_rows, strip, tiles, factors, numbers, totals);
  }
  void map_strip(const NormRows<T>& strip, const C* factors) const {
    GK_ISA_CALL(gk::batch_norm, map_rows, strip, tiles, factors, numbers);
  }
  // The sets of a channel, from the sums of its cells.
  template <class F>
  void finish_channel(int64_t c, const double* sums, C* factors, int64_t step, int64_t pitch, F finish) const {
    if (shape.shared) {
      finish(NormSet<C>{c, shape.channels, shape.groups, sums, kMostTerms, factors, step, pitch});
    } else {
      for (int64_t g = 0; g < shape.groups; ++g)
        finish(NormSet<C>{g * shape.channels + c, 0, 1, sums + g * kMostTerms, 0, factors + g * step, 0, pitch});
    }
  }
};

// finish(set) turns a set's sums into the factors of its cells, `before` [.., cells] holds those known by then.

// Contiguous with long planes: a thread takes a channel, and reads it again while it is in its cache.
template <class T, class C, class F>
void run_channels(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.groups * s.cell_size()));
  const bool writes = job.tensors.writes();
  at::parallel_for(0, s.channels, grain, [&](int64_t begin, int64_t end) {
    std::vector<C> factors(s.groups * kMostFactors);
    std::vector<double> sums(s.groups * kMostTerms);
    for (int64_t c = begin; c < end; ++c) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t g = 0; g < s.groups; ++g) {
        const auto at = job.tensors.from(g * s.cell_size() * s.channels);
        C* f = factors.data() + g * kMostFactors;
        double* to = sums.data() + g * kMostTerms;
        for (size_t j = 0; j * s.cells() < before.size(); ++j) f[j] = before[j * s.cells() + g * s.channels + c];
        if (job.kind == Sums::moments) {
          const auto m = GK_ISA_CALL(gk::batch_norm, channel_moments, s, c, job.mean, job.spread, at.source);
          to[0] = m.mean, to[1] = m.squares;
        } else if (job.kind == Sums::terms) {
          GK_ISA_CALL(gk::batch_norm, reduce_channel, s, c, job.tiles, at.source, f, job.numbers, to);
        }
      }
      job.finish_channel(c, sums.data(), factors.data(), kMostFactors, 1, finish);
      for (int64_t g = 0; writes && g < s.groups; ++g) {
        const auto at = job.tensors.from(g * s.cell_size() * s.channels);
        GK_ISA_CALL(gk::batch_norm, map_channel, s, c, job.tiles, at.source, at.target,
                    factors.data() + g * kMostFactors, job.numbers);
      }
    }
  });
}

// Contiguous with short planes, one group: a thread takes as many channels as make a strip, a sample being a row of it.
template <class T, class C, class F>
void run_planes(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t group = kStrip / s.inner, strips = (s.channels + group - 1) / group;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.batch * kStrip));
  const bool writes = job.tensors.writes();
  at::parallel_for(0, strips, grain, [&](int64_t begin, int64_t end) {
    std::vector<C> factors(kMostFactors * kStrip, C(0));
    for (int64_t first = begin * group; first < std::min(end * group, s.channels); first += group) {
      const int64_t channels = std::min(group, s.channels - first);
      const auto strip = job.strip(first * s.inner, s.batch, s.channels * s.inner, channels * s.inner);
      const auto spread_out = [&](int64_t c, const C* values) {
        for (int j = 0; j < kMostFactors; ++j)
          std::fill_n(factors.data() + j * kStrip + c * s.inner, s.inner, values[j]);
      };
      C of_channel[kStrip][kMostFactors] = {};
      for (int64_t c = 0; c < channels; ++c) {
        for (size_t j = 0; j * s.channels < before.size(); ++j) of_channel[c][j] = before[j * s.channels + first + c];
        if (!before.empty()) spread_out(c, of_channel[c]);
      }
      double totals[kMostTerms * kStrip] = {};
      job.sum_strip(strip, factors.data(), totals);
      for (int64_t c = 0; c < channels; ++c) {
        double sums[kMostTerms] = {};
        NormMoments m;
        for (int64_t i = c * s.inner; i < (c + 1) * s.inner; ++i) {
          for (int k = 0; k < job.sums(); ++k) sums[k] += totals[k * kStrip + i];
          if (job.kind == Sums::moments) m.add({double(s.batch), totals[i], totals[kStrip + i]});
        }
        if (job.kind == Sums::moments) sums[0] = m.mean, sums[1] = m.squares;
        job.finish_channel(first + c, sums, of_channel[c], 0, 1, finish);
        spread_out(c, of_channel[c]);
      }
      if (writes) job.map_strip(strip, factors.data());
    }
  });
}

// channels_last: threads take blocks of rows, each of one group, once to sum and once to write.
template <class T, class C, class F>
void run_rows(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t rows = s.cell_size(), strips = (s.channels + kStrip - 1) / kStrip;
  const int64_t step = std::max<int64_t>(kMomentRows, kGrain / std::max<int64_t>(s.channels, 1));
  const int64_t blocks = (rows + step - 1) / step;  // of a group
  const int64_t together = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, std::min(step, rows) * s.channels));
  const int64_t group_factors = strips * kMostFactors * kStrip;
  std::vector<C> factors(s.groups * group_factors, C(0));
  const auto factors_at = [&](int64_t g, int64_t c) {
    return factors.data() + g * group_factors + c / kStrip * kMostFactors * kStrip + c % kStrip;
  };
  for (size_t j = 0; j * s.cells() < before.size(); ++j)
    for (int64_t g = 0; g < s.groups; ++g)
      for (int64_t c = 0; c < s.channels; ++c)
        factors_at(g, c)[j * kStrip] = before[j * s.cells() + g * s.channels + c];
  const auto each_strip = [&](auto f) {
    at::parallel_for(0, s.groups * blocks, together, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t g = b / blocks, row = b % blocks * step;
        for (int64_t k = 0; k < strips; ++k)
          f(b, g, k,
            job.strip((g * rows + row) * s.channels + k * kStrip, std::min(step, rows - row), s.channels,
                      std::min(kStrip, s.channels - k * kStrip)));
      }
    });
  };
  const int64_t width = job.sums() * kStrip;
  std::vector<double> partial(s.groups * blocks * strips * width);
  if (job.kind != Sums::none)
    each_strip([&](int64_t b, int64_t g, int64_t k, const NormRows<T>& strip) {
      double totals[kMostTerms * kStrip] = {};
      job.sum_strip(strip, factors_at(g, k * kStrip), totals);
      std::copy(totals, totals + width, partial.data() + (b * strips + k) * width);
    });
  at::parallel_for(0, s.channels, std::max<int64_t>(1, kGrain / (16 * s.groups)), [&](int64_t begin, int64_t end) {
    std::vector<double> sums(s.groups * kMostTerms);
    for (int64_t c = begin; c < end; ++c) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t g = 0; g < s.groups; ++g) {
        double* to = sums.data() + g * kMostTerms;
        NormMoments m;
        for (int64_t b = 0; b < blocks; ++b) {
          const double* from = partial.data() + ((g * blocks + b) * strips + c / kStrip) * width + c % kStrip;
          if (job.kind == Sums::moments) m.add({double(std::min(step, rows - b * step)), from[0], from[kStrip]});
          for (int k = 0; k < job.sums(); ++k) to[k] += from[k * kStrip];
        }
        if (job.kind == Sums::moments) to[0] = m.mean, to[1] = m.squares;
      }
      job.finish_channel(c, sums.data(), factors_at(0, c), group_factors, kStrip, finish);
    }
  });
  if (job.tensors.writes())
    each_strip([&](int64_t, int64_t g, int64_t k, const NormRows<T>& strip) {
      job.map_strip(strip, factors_at(g, k * kStrip));
    });
}

template <class T, class C, class F>
void run(const NormShape& s, NormPass pass, Act act, bool pixels, Sums kind, double alpha, double gain,
         const std::vector<C>& before, const NormTensors<T>& tensors, F finish) {
  const bool planes = !s.rows && s.inner > 1 && s.inner <= kStrip && s.groups == 1 && !pixels;
  const bool rows = s.rows || s.inner == 1;
  const Job<T, C> job(s, rows || planes, pass, act, pixels, kind, alpha, gain, tensors);
  if (rows)
    run_rows(job, before, finish);
  else if (planes)
    run_planes(job, before, finish);
  else
    run_channels(job, before, finish);
}

}  // namespace gk::batch_norm
