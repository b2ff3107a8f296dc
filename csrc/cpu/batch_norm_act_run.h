// How batch_norm_act goes over a tensor, one way for each layout. The order of every sum depends on sizes alone.
#pragma once
#include "cpu/batch_norm_act_job.h"

namespace gk::batch_norm {

// finish(set) turns a set's sums, unless x is empty, into the factors of its cells, `before` [.., cells] holds those
// known by then.

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
          const auto m = GK_ISA_CALL(gk::batch_norm, channel_moments, s, c, at.source[kX]);
          to[0] = m.mean, to[1] = m.squares;
        } else if (job.kind == Sums::terms) {
          GK_ISA_CALL(gk::batch_norm, reduce_channel, s, c, job.tiles, at.source, f, job.numbers, to);
        }
      }
      job.finish_channel(c, 0, s.groups, sums.data(), kMostTerms, factors.data(), kMostFactors, 1, finish);
      for (int64_t g = 0; writes && g < s.groups; ++g) {
        const auto at = job.tensors.from(g * s.cell_size() * s.channels);
        GK_ISA_CALL(gk::batch_norm, map_channel, s, c, job.tiles, at.source, at.target,
                    factors.data() + g * kMostFactors, job.numbers);
      }
    }
  });
}

// Contiguous with short planes, each a cell of its own: a thread takes as many channels as make a tile.
template <class T, class C, class F>
void run_cells(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t together = std::clamp<int64_t>(s.channels, 1, kTile / s.inner);
  const int64_t tiles = (s.channels + together - 1) / together;
  const int64_t grain = std::max<int64_t>(1, kGrain / (s.groups * together * s.inner));
  const int64_t factors_step = together * kMostFactors, sums_step = together * kMostTerms;
  const bool writes = job.tensors.writes();
  at::parallel_for(0, tiles, grain, [&](int64_t begin, int64_t end) {
    std::vector<C> factors(s.groups * factors_step);
    std::vector<double> sums(s.groups * sums_step);
    for (int64_t first = begin * together; first < std::min(end * together, s.channels); first += together) {
      const int64_t planes = std::min(together, s.channels - first);
      if (job.kind == Sums::terms) std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t cell = g * s.channels + first;
        const auto at = job.tensors.from(cell * s.inner);
        C* f = factors.data() + g * factors_step;
        double* to = sums.data() + g * sums_step;
        for (size_t j = 0; j * s.cells() < before.size(); ++j)
          for (int64_t k = 0; k < planes; ++k) f[k * kMostFactors + j] = before[j * s.cells() + cell + k];
        if (job.kind == Sums::moments)
          GK_ISA_CALL(gk::batch_norm, plane_moments, at.source[kX], s.inner, planes, to);
        else if (job.kind == Sums::terms)
          GK_ISA_CALL(gk::batch_norm, reduce_planes, s.inner, planes, job.tiles, at.source, f, job.numbers, to);
      }
      for (int64_t k = 0; k < planes; ++k)
        job.finish_channel(first + k, 0, s.groups, sums.data() + k * kMostTerms, sums_step,
                           factors.data() + k * kMostFactors, factors_step, 1, finish);
      for (int64_t g = 0; writes && g < s.groups; ++g) {
        const auto at = job.tensors.from((g * s.channels + first) * s.inner);
        GK_ISA_CALL(gk::batch_norm, map_planes, s.inner, planes, job.tiles, at.source, at.target,
                    factors.data() + g * factors_step, job.numbers);
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
    Zeros<C> factors(kMostFactors * kStrip);
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
      alignas(kLine) double totals[kMostTerms * kStrip];
      std::fill_n(totals, job.sums() * kStrip, 0.0);
      job.sum_strip(strip, factors.data(), totals);
      for (int64_t c = 0; c < channels; ++c) {
        double sums[kMostTerms] = {};
        NormMoments m;
        for (int64_t i = c * s.inner; i < (c + 1) * s.inner; ++i) {
          for (int k = 0; k < job.sums(); ++k) sums[k] += totals[k * kStrip + i];
          if (job.kind == Sums::moments) m.add({double(s.batch), totals[i], totals[kStrip + i]});
        }
        if (job.kind == Sums::moments) sums[0] = m.mean, sums[1] = m.squares;
        job.finish_channel(first + c, 0, 1, sums, kMostTerms, of_channel[c], 0, 1, finish);
        spread_out(c, of_channel[c]);
      }
      if (writes) job.map_strip(strip, factors.data());
    }
  });
}

// channels_last: threads take blocks of rows, each of one group, once to sum and once to write; as many groups at a
// time as caches hold, where their sets are their own.
template <class T, class C, class F>
void run_rows(const Job<T, C>& job, const std::vector<C>& before, F finish) {
  const NormShape& s = job.shape;
  const int64_t rows = s.cell_size(), strips = (s.channels + kStrip - 1) / kStrip;
  const int64_t step = std::max<int64_t>(kMomentRows, kGrain / std::max<int64_t>(s.channels, 1));
  const int64_t blocks = (rows + step - 1) / step;  // of a group
  const int64_t block_size = std::max<int64_t>(1, std::min(step, rows) * s.channels);
  const int64_t together = std::max<int64_t>(1, kGrain / block_size);
  const int64_t group_bytes = std::max<int64_t>(1, rows * s.channels * sizeof(T));
  const int64_t cached = at::get_num_threads() * kCached / group_bytes;
  const int64_t at_once = s.shared ? s.groups : std::max<int64_t>(1, std::min(cached, s.groups));
  const int64_t group_factors = strips * kMostFactors * kStrip, width = job.sums() * kStrip;
  const int64_t block_sums = strips * width;
  Zeros<C> factors(at_once * group_factors);
  const int64_t count = at_once * blocks * block_sums;
  Zeros<double> partial(count);
  for (int64_t first = 0; first < s.groups; first += at_once) {
    const int64_t groups = std::min(at_once, s.groups - first);
    const auto factors_at = [&](int64_t g, int64_t c) {
      return factors.data() + g * group_factors + c / kStrip * kMostFactors * kStrip + c % kStrip;
    };
    for (size_t j = 0; j * s.cells() < before.size(); ++j)
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t c = 0; c < s.channels; ++c)
          factors_at(g, c)[j * kStrip] = before[j * s.cells() + (first + g) * s.channels + c];
    const auto each_strip = [&](auto f) {
      at::parallel_for(0, groups * blocks, together, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t g = b / blocks, row = b % blocks * step;
          for (int64_t k = 0; k < strips; ++k)
            f(b, g, k,
              job.strip(((first + g) * rows + row) * s.channels + k * kStrip, std::min(step, rows - row), s.channels,
                        std::min(kStrip, s.channels - k * kStrip)));
        }
      });
    };
    if (job.kind != Sums::none) {
      if (first > 0) std::fill_n(partial.data(), count, 0.0);
      each_strip([&](int64_t b, int64_t g, int64_t k, const NormRows<T>& strip) {
        job.sum_strip(strip, factors_at(g, k * kStrip), partial.data() + b * block_sums + k * width);
      });
    }
    at::parallel_for(0, s.channels, std::max<int64_t>(1, kGrain / (16 * groups)), [&](int64_t begin, int64_t end) {
      std::vector<double> sums(groups * kMostTerms);
      for (int64_t c = begin; c < end; ++c) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t g = 0; g < groups; ++g) {
          double* to = sums.data() + g * kMostTerms;
          NormMoments m;
          for (int64_t b = 0; b < blocks; ++b) {
            const double* from = partial.data() + (g * blocks + b) * block_sums + c / kStrip * width + c % kStrip;
            if (job.kind == Sums::moments) m.add({double(std::min(step, rows - b * step)), from[0], from[kStrip]});
            for (int k = 0; k < job.sums(); ++k) to[k] += from[k * kStrip];
          }
          if (job.kind == Sums::moments) to[0] = m.mean, to[1] = m.squares;
        }
        job.finish_channel(c, first, first + groups, sums.data(), kMostTerms, factors_at(0, c), group_factors, kStrip,
                           finish);
      }
    });
    if (job.tensors.writes())
      each_strip([&](int64_t, int64_t g, int64_t k, const NormRows<T>& strip) {
        job.map_strip(strip, factors_at(g, k * kStrip));
      });
  }
}

template <class T, class C, class F>
void run(const NormShape& s, NormPass pass, Act act, bool pixels, Sums kind, double alpha, double gain,
         const std::vector<C>& before, const NormTensors<T>& tensors, F finish) {
  if (s.cells() * s.cell_size() == 0) return;
  const bool rows = s.rows || s.inner == 1;
  const bool cells = !rows && s.batch == 1 && s.inner > 1 && s.inner <= kTile;
  const bool planes = !rows && !cells && s.groups == 1 && s.inner > 1 && s.inner <= kStrip;
  const Job<T, C> job(s, rows || planes, pass, act, pixels, kind, alpha, gain, tensors);
  if (rows)
    run_rows(job, before, finish);
  else if (cells)
    run_cells(job, before, finish);
  else if (planes)
    run_planes(job, before, finish);
  else
    run_channels(job, before, finish);
}

}  // namespace gk::batch_norm
