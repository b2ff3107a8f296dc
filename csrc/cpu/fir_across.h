// Included by foreach_isa.h in each instruction set's namespace: filtering along rows.
#include "cpu/fir_rows.h"
#include "cpu/fir_vectors.h"

// The rows of a resampling's input that an output row sums.
struct FirWindow {
  int64_t phase, first, skipped, count;  // taps from `skipped` on meet rows first .. first + count - 1

  FirWindow(const FirLine& line, int64_t o) : phase(o % line.period) {
    const FirPhase& f = line.phases[phase];
    const int64_t from = f.first + o / line.period * line.step;
    skipped = std::min(f.count, std::max<int64_t>(0, -from));
    count = std::max<int64_t>(0, std::min(f.count, line.in - from) - skipped);
    first = from + skipped;
  }
};

// How a row of output is had from rows of input: where each tap of each phase reads, and the loop that suits the axis.
template <class A>
struct Across {
  enum Way { whole, by_pixel, zipped, halved, pieces } way;
  const FirLine& line;
  int64_t inner, span, length;
  A* room;      // for pieces: every step-th number of each row, then a phase of the output
  const A** p;  // [phase, rows, count], [phase, rows, count / 2] where halved

  Across(const FirLine& line, int64_t n, int64_t inner, A* room, const A** p)
      : line(line), inner(inner), span(line.span(n)), length(span / line.step + 1), room(room), p(p) {
    const FirPhase& first = line.phases[0];
    way = line.period == 1 && line.step == 1                                          ? whole
          : inner > 1                                                                 ? by_pixel
          : line.period == 2 && line.step == 1 && first.count == line.phases[1].count ? zipped
          : line.period == 1 && line.step == 2 && first.count % 2 == 0                ? halved
                                                                                      : pieces;
  }
  const A** pointers(int64_t phase, int64_t n_rows) const { return p + phase * n_rows * line.most; }

  // The rows start at input line.low of the first pixel.
  void point(const A* const* rows, int64_t n_rows) {
    const bool split = way == pieces && line.step > 1;
    for (int64_t phase = 0; phase < line.period; ++phase) {
      const FirPhase& f = line.phases[phase];
      const A** q = pointers(phase, n_rows);
      for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t i = f.first - line.low, t = 0; t < f.count; t += way == halved ? 2 : 1)
          *q++ = split ? room + (r * line.step + (i + t) % line.step) * length + (i + t) / line.step
                       : rows[r] + (i + t) * inner;
    }
  }
  // `n` pixels from a phase 0 on; coef(phase) are its taps, [rows, count].
  template <class Coef>
  void run(const A* const* rows, int64_t n_rows, Coef coef, int64_t n, A* out) const {
    const int64_t taps = n_rows * line.phases[0].count;
    if (way == whole) {
      weighted_sum(out, n * inner, taps, coef(0), p, 0);
    } else if (way == by_pixel) {
      for (int64_t base = 0, at = 0; base < n; base += line.period, at += line.step * inner)
        for (int64_t phase = 0; phase < std::min(line.period, n - base); ++phase)
          weighted_sum(out + (base + phase) * inner, inner, n_rows * line.phases[phase].count, coef(phase),
                       pointers(phase, n_rows), at);
    } else if (way == zipped) {
      weighted_sums_zipped(out, n / 2, taps, coef(0), p, coef(1), pointers(1, n_rows));
      if (n % 2) weighted_sum(out + n - 1, 1, taps, coef(0), p, n / 2);
    } else if (way == halved) {
      weighted_sum_halved(out, n, taps / 2, coef(0), p);
    } else {
      A* piece = room;
      if (line.step > 1)
        for (int64_t r = 0; r < n_rows; ++r, piece += line.step * length)
          split_row(rows[r], span, 1, line.step, piece, length);
      for (int64_t phase = 0; phase < std::min(line.period, n); ++phase) {
        const int64_t m = (n - phase + line.period - 1) / line.period;
        weighted_sum(line.period == 1 ? out : piece, m, n_rows * line.phases[phase].count, coef(phase),
                     pointers(phase, n_rows), 0);
        if (line.period > 1)
          for (int64_t j = 0; j < m; ++j) out[j * line.period + phase] = piece[j];
      }
    }
  }
};
