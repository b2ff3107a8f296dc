// The loops of upfirdn2d; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_across.h"

// Rows [begin, end) of plane `plane` of the output.
template <class T, class A>
void fir_rows(const FirJob<T, A>& job, int64_t plane, int64_t begin, int64_t end, const FirScratch<A>& scratch) {
  const FirLine &h = job.fir.h, &v = job.fir.v;
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
    if (job.fir.separable) {
      std::fill(scratch.sum, scratch.sum + before, A(0));
      std::fill(scratch.sum + before + inside, scratch.sum + h.span(n) * inner, A(0));
      across.point(&sum, 1);
    }
    for (int64_t o = begin; o < end; ++o) {
      const FirWindow w(v, o);
      T* to = y + o * job.ys.h + left * job.ys.w;
      A* out = direct_out ? reinterpret_cast<A*>(to) : scratch.out;
      if (w.count == 0) {
        std::fill(out, out + n * inner, A(0));
      } else if (job.fir.separable) {
        for (int64_t t = 0; t < w.count; ++t) {
          const int64_t row = w.first + t;
          scratch.row_pointers[t] = direct_in ? reinterpret_cast<const A*>(x + row * job.xs.h + cache.begin * job.xs.w)
                                              : cache.get(row) + before;
        }
        weighted_sum(scratch.sum + before, inside, w.count, job.fir.coef_y(w.phase) + w.skipped, scratch.row_pointers,
                     0);
        across.run(&sum, 1, [&](int64_t p) { return job.fir.coef_x(p); }, n, out);
      } else {
        for (int64_t t = 0; t < w.count; ++t) scratch.row_pointers[t] = cache.get(w.first + t);
        const auto coef = [&](int64_t p) { return job.fir.coef(w.phase, p) + w.skipped * h.phases[p].count; };
        across.point(scratch.row_pointers, w.count);
        across.run(scratch.row_pointers, w.count, coef, n, out);
      }
      if (!direct_out) scatter_row(out, to, job.ys.w, job.ys.c, n, inner);
    }
  }
}
