// The loops of upfirdn2d; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_rows.h"
#include "cpu/fir_vectors.h"

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

// Rows [begin, end) of plane `plane` of the output.
template <class T, class A>
void fir_rows(const FirJob<T, A>& job, int64_t plane, int64_t begin, int64_t end, const FirScratch<A>& scratch) {
  const FirLine &h = job.h, &v = job.v;
  const int64_t inner = job.view.width(plane);
  const auto dense = [&](const Strides& s) { return s.w == inner && (inner == 1 || s.c == 1); };
  const bool same = std::is_same_v<T, A>, direct_in = same && dense(job.xs), direct_out = same && dense(job.ys);
  const T* x = job.x + job.view.offset(plane, job.xs);
  T* y = job.y + job.view.offset(plane, job.ys);
  RowCache<T, A> cache{x, job.xs, inner, 0, 0, 0, 0, v.most, 1, scratch.length, scratch.rows, nullptr, scratch.held};
  for (int64_t left = 0; left < h.out; left += job.tile) {
    const int64_t n = std::min(job.tile, h.out - left);
    const int64_t low = h.low + left / h.period * h.step;
    cache.start(low, low + h.span(n), h.in);
    const int64_t before = (cache.begin - low) * inner, inside = (cache.end - cache.begin) * inner;
    Across<A> across(h, n, inner, scratch.room, scratch.pointers);
    const A* sum = scratch.sum;
    if (job.separable) {
      std::fill(scratch.sum, scratch.sum + before, A(0));
      std::fill(scratch.sum + before + inside, scratch.sum + h.span(n) * inner, A(0));
      across.point(&sum, 1);
    }
    for (int64_t o = begin; o < end; ++o) {
      const int64_t phase = o % v.period;
      const FirPhase& f = v.phases[phase];
      const int64_t first = f.first + o / v.period * v.step;
      const int64_t t0 = std::min(f.count, std::max<int64_t>(0, -first));
      const int64_t count = std::max<int64_t>(0, std::min(f.count, v.in - first) - t0);
      T* to = y + o * job.ys.h + left * job.ys.w;
      A* out = direct_out ? reinterpret_cast<A*>(to) : scratch.out;
      if (count == 0) {
        std::fill(out, out + n * inner, A(0));
      } else if (job.separable) {
        for (int64_t t = 0; t < count; ++t) {
          const int64_t row = first + t0 + t;
          scratch.row_pointers[t] = direct_in ? reinterpret_cast<const A*>(x + row * job.xs.h + cache.begin * job.xs.w)
                                              : cache.get(row) + before;
        }
        weighted_sum(scratch.sum + before, inside, count, job.coef_y(phase) + t0, scratch.row_pointers, 0);
        across.run(&sum, 1, [&](int64_t p) { return job.coef_x(p); }, n, out);
      } else {
        for (int64_t t = 0; t < count; ++t) scratch.row_pointers[t] = cache.get(first + t0 + t);
        const auto coef = [&](int64_t p) { return job.coef(phase, p) + t0 * h.phases[p].count; };
        across.point(scratch.row_pointers, count);
        across.run(scratch.row_pointers, count, coef, n, out);
      }
      if (!direct_out) scatter_row(out, to, job.ys.w, job.ys.c, n, inner);
    }
  }
}
