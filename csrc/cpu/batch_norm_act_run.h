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
#elif defined(__GNUC__)
#define GK_IVDEP _Pragma("GCC ivdep")
#else
#define GK_IVDEP
#endif

// A space of its own: the loops' names must be no other operator's.
namespace gk::batch_norm {

constexpr int kLanes = 32, kMostFactors = 11, kMostTerms = kNormSecondSums;
constexpr int64_t kTile = 512, kStrip = 256, kFlush = 16, kMomentRows = 64;

enum class NormPass { mean, spread, forward, backward, second };

template <class C>
struct ActNumbers {
  C alpha, gain;
};

struct NormShape {
  int64_t batch, channels, inner;
  bool rows;  // channels_last: [batch * inner, channels] in memory
};

template <class C>
struct NormTiles {
  void (*reduce)(const C* const*, int64_t, const C*, int64_t, const ActNumbers<C>&, double*, C*);
  void (*map)(const C* const*, int64_t, const C*, int64_t, const ActNumbers<C>&, C* const*);
  int terms;
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

// Tensors as rows of at most kStrip columns, `pitch` apart; factors and totals are [.., kStrip].
template <class T>
struct NormRows {
  const T* source[3];
  T* target[2];
  int64_t rows, pitch, width;

  const T* at(int k, int64_t row) const { return source[k] ? source[k] + row * pitch : nullptr; }
};

}  // namespace gk::batch_norm

#define GK_ISA_SPACE gk::batch_norm
#define GK_ISA_FILE "cpu/batch_norm_act_loops.h"
#include "cpu/foreach_isa.h"

namespace gk::batch_norm {

constexpr int64_t kGrain = 16384;  // elements below which a thread does not pay

// What one call computes: sums of a kind, then each channel's factors from them, then values.
enum class Sums { none, moments, terms };

template <class T, class C>
struct Job {
  NormShape shape;
  Sums kind;
  NormTiles<C> tiles, mean, spread;  // of rows or of channels, as the layout asks for
  const T* source[3];
  T* target[2];
  ActNumbers<C> numbers;

  Job(const NormShape& s, bool by_rows, NormPass pass, Act act, Sums kind, double alpha, double gain)
      : shape(s), kind(kind), source{}, target{}, numbers{C(alpha), C(gain)} {
    const auto of = [&](NormPass p) {
      return by_rows ? GK_ISA_CALL(gk::batch_norm, row_tiles<C>, p, act)
                     : GK_ISA_CALL(gk::batch_norm, channel_tiles<C>, p, act);
    };
    tiles = of(pass), mean = of(NormPass::mean), spread = of(NormPass::spread);
  }
  bool writes() const { return target[0] != nullptr || target[1] != nullptr; }
  int sums() const { return kind == Sums::moments ? 2 : kind == Sums::terms ? tiles.terms : 0; }

  NormRows<T> strip(int64_t offset, int64_t rows, int64_t pitch, int64_t width) const {
    NormRows<T> out{{}, {}, rows, pitch, width};
    for (int k = 0; k < 3; ++k) out.source[k] = source[k] ? source[k] + offset : nullptr;
    for (int k = 0; k < 2; ++k) out.target[k] = target[k] ? target[k] + offset : nullptr;
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
};

// finish(channel, sums, factors, pitch) turns a channel's sums into its factors, `before` holds those known by then.

// Contiguous with long planes: a thread takes a channel, and reads it again while it is in its cache.
template <class T, class C, class F>
void run_channels(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.batch * s.inner));
  at::parallel_for(0, s.channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      C factors[kMostFactors] = {};
      double sums[kMostTerms] = {};
      for (size_t j = 0; j * s.channels < before.size(); ++j) factors[j] = before[j * s.channels + c];
      if (job.kind == Sums::moments) {
        const auto m = GK_ISA_CALL(gk::batch_norm, channel_moments, s, c, job.mean, job.spread, job.source[0]);
        sums[0] = m.mean, sums[1] = m.squares;
      } else if (job.kind == Sums::terms) {
        GK_ISA_CALL(gk::batch_norm, reduce_channel, s, c, job.tiles, job.source, factors, job.numbers, sums);
      }
      finish(c, sums, factors, 1);
      if (job.writes())
        GK_ISA_CALL(gk::batch_norm, map_channel, s, c, job.tiles, job.source, job.target, factors, job.numbers);
    }
  });
}

// Contiguous with short planes: a thread takes as many channels as make a strip, a sample being a row of it.
template <class T, class C, class F>
void run_planes(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t group = kStrip / s.inner, strips = (s.channels + group - 1) / group;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.batch * kStrip));
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
        finish(first + c, sums, of_channel[c], 1);
        spread_out(c, of_channel[c]);
      }
      if (job.writes()) job.map_strip(strip, factors.data());
    }
  });
}

// channels_last: threads take blocks of rows, once to sum and once to write.
template <class T, class C, class F>
void run_rows(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t rows = s.batch * s.inner, strips = (s.channels + kStrip - 1) / kStrip;
  const int64_t step = std::max<int64_t>(kMomentRows, kGrain / std::max<int64_t>(s.channels, 1) / kFlush * kFlush);
  const int64_t blocks = (rows + step - 1) / step;
  std::vector<C> factors(strips * kMostFactors * kStrip, C(0));
  const auto factors_at = [&](int64_t c) { return factors.data() + c / kStrip * kMostFactors * kStrip + c % kStrip; };
  for (int64_t c = 0; c < s.channels; ++c)
    for (size_t j = 0; j * s.channels < before.size(); ++j) factors_at(c)[j * kStrip] = before[j * s.channels + c];
  const auto each_strip = [&](auto f) {
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        for (int64_t k = 0; k < strips; ++k)
          f(b, k,
            job.strip(b * step * s.channels + k * kStrip, std::min(step, rows - b * step), s.channels,
                      std::min(kStrip, s.channels - k * kStrip)));
    });
  };
  const int64_t width = job.sums() * kStrip;
  std::vector<double> partial(blocks * strips * width, 0.0);
  if (job.kind != Sums::none)
    each_strip([&](int64_t b, int64_t k, const NormRows<T>& strip) {
      job.sum_strip(strip, factors_at(k * kStrip), partial.data() + (b * strips + k) * width);
    });
  for (int64_t c = 0; c < s.channels; ++c) {
    double sums[kMostTerms] = {};
    NormMoments m;
    for (int64_t b = 0; b < blocks; ++b) {
      const double* from = partial.data() + (b * strips + c / kStrip) * width + c % kStrip;
      if (job.kind == Sums::moments) m.add({double(std::min(step, rows - b * step)), from[0], from[kStrip]});
      for (int k = 0; k < job.sums(); ++k) sums[k] += from[k * kStrip];
    }
    if (job.kind == Sums::moments) sums[0] = m.mean, sums[1] = m.squares;
    finish(c, sums, factors_at(c), kStrip);
  }
  if (job.writes())
    each_strip([&](int64_t, int64_t k, const NormRows<T>& strip) { job.map_strip(strip, factors_at(k * kStrip)); });
}

template <class T, class C, class F>
void run(const NormShape& s, NormPass pass, Act act, Sums kind, double alpha, double gain, const std::vector<C>& before,
         std::array<const T*, 3> source, std::array<T*, 2> target, F finish) {
  const bool planes = !s.rows && s.inner > 1 && s.inner <= kStrip;
  const bool rows = s.rows || s.inner == 1;
  Job<T, C> job(s, rows || planes, pass, act, kind, alpha, gain);
  std::copy(source.begin(), source.end(), job.source);
  std::copy(target.begin(), target.end(), job.target);
  if (rows)
    run_rows(job, before, finish);
  else if (planes)
    run_planes(job, before, finish);
  else
    run_channels(job, before, finish);
}

}  // namespace gk::batch_norm
