// A contiguous tensor cut into runs for threads: the work of an operator with one number a channel.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

namespace gk {

// Seen as [outer, channels, inner]. Where inner is long, a unit is a piece of one row and its channel number is one;
// else the channel numbers are written out over a period of at least kShort elements and a unit is many periods.
struct ChannelRuns {
  static constexpr int64_t kShort = 64, kUnit = 65536;
  int64_t numel, channels, inner, spread, period, pieces, units;

  ChannelRuns(const at::Tensor& x, int64_t dim, at::MemoryFormat format) {
    channels = x.size(dim);
    numel = x.numel();
    inner = 1;
    if (format == at::MemoryFormat::Contiguous)
      for (int64_t i = dim + 1; i < x.dim(); ++i) inner *= x.size(i);
    const int64_t sample = std::max<int64_t>(channels * inner, 1);
    spread = inner;
    period = pieces = 0;
    if (inner >= kShort) {
      pieces = (inner + kUnit - 1) / kUnit;
      units = numel / inner * pieces;
    } else {
      period = sample * ((kShort + sample - 1) / sample);
      units = (numel + unit_length() - 1) / unit_length();
    }
  }
  bool written_out() const { return period != 0; }
  int64_t unit_length() const { return period * std::max<int64_t>(1, kUnit / period); }
  int64_t begin(int64_t unit) const {
    return written_out() ? unit * unit_length() : unit / pieces * inner + unit % pieces * kUnit;
  }
  int64_t end(int64_t unit) const {
    return written_out() ? std::min(numel, begin(unit) + unit_length())
                         : std::min((unit / pieces + 1) * inner, begin(unit) + kUnit);
  }
  int64_t channel(int64_t unit) const { return unit / pieces % channels; }
  // Numbers that a unit sums for its channels.
  int64_t sums() const { return written_out() ? period : 1; }

  // One number a channel, as a run reads them: [channels], or [period] where written out.
  template <class T, class acc_t>
  std::vector<acc_t> write_out(const T* values) const {
    std::vector<acc_t> out;
    for (int64_t c = 0; c < channels; ++c) out.insert(out.end(), written_out() ? spread : 1, acc_t(values[c]));
    const size_t once = out.size();
    if (once == 0) return out;
    while (int64_t(out.size()) < period) out.push_back(out[out.size() - once]);
    return out;
  }
  // The channels' totals of `partial`, [units, sums()].
  std::vector<double> total(const std::vector<double>& partial) const {
    std::vector<double> out(channels, 0.0);
    const double* p = partial.data();
    for (int64_t u = 0; u < units; ++u) {
      if (!written_out()) {
        out[channel(u)] += *p++;
        continue;
      }
      for (int64_t i = 0; i < period; i += channels * spread)
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t j = 0; j < spread; ++j) out[c] += *p++;
    }
    return out;
  }
};

}  // namespace gk
