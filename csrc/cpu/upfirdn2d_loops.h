// The loops of upfirdn2d; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_rows.h"
#include "cpu/fir_vectors.h"

// One row of output: `n` pixels from a phase 0 on, each the sum over rows and taps; the rows start at input line.low
// of the first pixel. coef(p) are the taps of phase p, [rows, count]. `room` holds the pieces where they are needed.
template <class A, class Coef>
void across(const FirLine& line, const A* const* rows, int64_t n_rows, Coef coef, int64_t n, int64_t inner, A* out,
            const A** p, A* room) {
  const auto points = [&](const FirPhase& f, int64_t pixel, int64_t by) {
    int64_t k = 0;
    for (int64_t r = 0; r < n_rows; ++r)
      for (int64_t t = 0; t < f.count; t += by) p[k++] = rows[r] + (f.first - line.low + pixel + t) * inner;
    return k;
  };
  const FirPhase& zero = line.phases[0];
  if (line.period == 1 && line.step == 1) {
    weighted_sum(out, n * inner, points(zero, 0, 1), coef(0), p);
  } else if (inner > 1) {
    for (int64_t o = 0; o < n; ++o) {
      const int64_t phase = o % line.period;
      const int64_t k = points(line.phases[phase], o / line.period * line.step, 1);
      weighted_sum(out + o * inner, inner, k, coef(phase), p);
    }
  } else if (line.period == 2 && line.step == 1 && zero.count == line.phases[1].count) {
    const int64_t k = points(zero, 0, 1);
    p += k;
    points(line.phases[1], 0, 1);
    weighted_sums_zipped(out, n / 2, k, coef(0), p - k, coef(1), p);
    if (n % 2) weighted_sum(out + n - 1, 1, points(zero, n / 2, 1), coef(0), p);
  } else if (line.period == 1 && line.step == 2 && zero.count % 2 == 0) {
    weighted_sum_halved(out, n, points(zero, 0, 2), coef(0), p);
  } else {
    const int64_t span = line.span(n), length = span / line.step + 1;
    A* piece = room + n_rows * line.step * length;
    for (int64_t r = 0; r < n_rows; ++r) split_row(rows[r], span, 1, line.step, room + r * line.step * length, length);
    for (int64_t phase = 0; phase < std::min(line.period, n); ++phase) {
      const FirPhase& f = line.phases[phase];
      int64_t k = 0;
      for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t t = 0; t < f.count; ++t) {
          const int64_t i = f.first - line.low + t;
          p[k++] = room + (r * line.step + i % line.step) * length + i / line.step;
        }
      const int64_t m = (n - phase + line.period - 1) / line.period;
      weighted_sum(line.period == 1 ? out : piece, m, k, coef(phase), p);
      if (line.period > 1)
        for (int64_t j = 0; j < m; ++j) out[j * line.period + phase] = piece[j];
    }
  }
}

// Rows [begin, end) of plane `plane` of the output.
template <class T, class A>
void fir_rows(const FirJob<T, A>& job, int64_t plane, int64_t begin, int64_t end, const FirScratch<A>& scratch) {
  const FirLine &h = job.h, &v = job.v;
  const int64_t inner = job.view.width(plane);
  const auto dense = [&](const Strides& s) { return s.w == inner && (inner == 1 || s.c == 1); };
  const bool same = std::is_same_v<T, A>, direct_in = same && dense(job.xs), direct_out = same && dense(job.ys);
  const T* x = job.x + job.view.offset(plane, job.xs);
  T* y = job.y + job.view.offset(plane, job.ys);
  RowCache<T, A> cache{x, job.xs, inner, 0, 0, 0, 0, v.most, 1, scratch.length, scratch.rows, nullptr,
                       scratch.held};
  for (int64_t left = 0; left < h.out; left += job.tile) {
    const int64_t n = std::min(job.tile, h.out - left);
    const int64_t low = h.low + left / h.period * h.step;
    cache.start(low, low + h.span(n), h.in);
    const int64_t before = (cache.begin - low) * inner, inside = (cache.end - cache.begin) * inner;
    if (job.separable) {
      std::fill(scratch.sum, scratch.sum + before, A(0));
      std::fill(scratch.sum + before + inside, scratch.sum + h.span(n) * inner, A(0));
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
          scratch.pointers[t] = direct_in
                                    ? reinterpret_cast<const A*>(x + row * job.xs.h + cache.begin * job.xs.w)
                                    : cache.get(row) + before;
        }
        weighted_sum(scratch.sum + before, inside, count, job.coef_y(phase) + t0, scratch.pointers);
        const A* sum = scratch.sum;
        across(h, &sum, 1, [&](int64_t p) { return job.coef_x(p); }, n, inner, out, scratch.pointers, scratch.room);
      } else {
        for (int64_t t = 0; t < count; ++t) scratch.row_pointers[t] = cache.get(first + t0 + t);
        const auto coef = [&](int64_t p) { return job.coef(phase, p) + t0 * h.phases[p].count; };
        across(h, scratch.row_pointers, count, coef, n, inner, out, scratch.pointers, scratch.room);
      }
      if (!direct_out) scatter_row(out, to, job.ys.w, job.ys.c, n, inner);
    }
  }
}
