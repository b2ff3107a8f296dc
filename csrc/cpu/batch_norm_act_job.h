// What batch_norm_act_run.h goes over: tensors, the sets and cells of their numbers, and the compiled loops for them.
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

constexpr int kLine = 64;  // bytes: buffers begin with a cache line, so that no vector straddles two
constexpr int kLanes = 32, kMostFactors = 8, kMostTerms = kPixelSecondSums;
constexpr int64_t kTile = 512, kStrip = 256, kMomentRows = 64, kRowsAtOnce = 4;

enum class NormPass { forward, backward, second };
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
  // Numbers of a row, rows; of a plane, planes. Planes have factors and totals of their own, map takes one row.
  void (*reduce)(const NormInputs<C>&, int64_t, int64_t, const C*, const ActNumbers<C>&, double*);
  void (*map)(const NormInputs<C>&, int64_t, int64_t, const C*, const ActNumbers<C>&, C* const*);
  int terms;
  unsigned reads;  // bits by NormSource
};

struct NormMoments {
  double count = 0, mean = 0, squares = 0;  // squares: sum of squared deviations from the mean

  void add(const NormMoments& other) {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
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

// Zeros from the begin of a cache line.
template <class N>
class Zeros {
  std::vector<N> held;

 public:
  explicit Zeros(int64_t count) : held(count + kLine / sizeof(N)) {}
  N* data() {
    const auto at = reinterpret_cast<uintptr_t>(held.data());
    return reinterpret_cast<N*>((at + kLine - 1) / kLine * kLine);
  }
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

constexpr int64_t kGrain = 16384;     // elements below which a thread does not pay
constexpr int64_t kCached = 1 << 20;  // bytes that a thread finds again in its cache

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
  NormTiles<C> tiles;  // of rows or of channels, as the layout asks for
  NormTensors<T> tensors;
  ActNumbers<C> numbers;

  Job(const NormShape& s, bool by_rows, NormPass pass, Act act, bool pixels, Sums kind, double alpha, double gain,
      const NormTensors<T>& tensors)
      : shape(s), kind(kind), tensors(tensors), numbers{C(alpha), C(gain)} {
    const bool narrow = sizeof(T) == 2;
    tiles = by_rows ? GK_ISA_CALL(gk::batch_norm, row_tiles<C>, pass, act, pixels, narrow)
                    : GK_ISA_CALL(gk::batch_norm, channel_tiles<C>, pass, act, pixels, narrow);
  }
  int sums() const { return kind == Sums::moments ? 2 : kind == Sums::terms ? tiles.terms : 0; }

  NormRows<T> strip(int64_t offset, int64_t rows, int64_t pitch, int64_t width) const {
    const auto at = tensors.from(offset);
    NormRows<T> out{{}, {}, rows, pitch, width};
    std::copy(at.source, at.source + kMostSources, out.source);
    std::copy(at.target, at.target + kMostTargets, out.target);
    return out;
  }
  // totals: [sums(), kStrip], zero at first.
  void sum_strip(const NormRows<T>& strip, const C* factors, double* totals) const {
    if (kind == Sums::moments) GK_ISA_CALL(gk::batch_norm, row_moments, strip, totals);
    if (kind == Sums::terms) GK_ISA_CALL(gk::batch_norm, reduce_rows, strip, tiles, factors, numbers, totals);
  }
  void map_strip(const NormRows<T>& strip, const C* factors) const {
    GK_ISA_CALL(gk::batch_norm, map_rows, strip, tiles, factors, numbers);
  }
  // The sets of a channel, from the sums of its cells, in groups begin to end: all where they are shared.
  template <class F>
  void finish_channel(int64_t c, int64_t begin, int64_t end, const double* sums, int64_t sums_step, C* factors,
                      int64_t step, int64_t pitch, F finish) const {
    if (shape.shared) {
      finish(NormSet<C>{c, shape.channels, shape.groups, sums, sums_step, factors, step, pitch});
    } else {
      for (int64_t g = begin; g < end; ++g)
        finish(NormSet<C>{g * shape.channels + c, 0, 1, sums + (g - begin) * sums_step, 0, factors + (g - begin) * step,
                          0, pitch});
    }
  }
};

}  // namespace gk::batch_norm
