// The loops of upfirdn2d's filter gradient; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_across.h"

inline FirVector<double>::type load_doubles(const double* p) { return FirVector<double>::load(p); }
inline FirVector<double>::type load_doubles(const float* p) {
  typedef float Half __attribute__((vector_size(GK_VECTOR_BYTES / 2)));
  Half v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, FirVector<double>::type);
}

// sums[t] += sum_j g[j] * p[t][j] in float64 (a tap sums over the whole batch), for T taps at a time so that g is
// loaded once for them.
template <int T, class A>
inline void products_of(const A* g, int64_t n, const A* const* p, double* sums) {
  using V = FirVector<double>;
  typename V::type sum[T] = {};
  int64_t j = 0;
  for (; j + V::lanes <= n; j += V::lanes) {
    const typename V::type v = load_doubles(g + j);
    for (int t = 0; t < T; ++t) sum[t] += v * load_doubles(p[t] + j);
  }
  for (; j < n; ++j)
    for (int t = 0; t < T; ++t) sums[t] += double(g[j]) * p[t][j];
  for (int t = 0; t < T; ++t)
    for (int64_t i = 0; i < V::lanes; ++i) sums[t] += sum[t][i];
}

template <class A>
void products(const A* g, int64_t n, int64_t taps, const A* const* p, double* sums) {
  for (; taps >= 4; taps -= 4, p += 4, sums += 4) products_of<4>(g, n, p, sums);
  for (; taps >= 2; taps -= 2, p += 2, sums += 2) products_of<2>(g, n, p, sums);
  if (taps == 1) products_of<1>(g, n, p, sums);
}

// Pixels of a row of the output's gradient, phase by phase, and the rows of x that they meet.
template <class T, class A>
struct FilterGradTile {
  const FilterGradJob<T, A>& job;
  const FilterGradScratch<A>& scratch;
  RowCache<T, A>& cache;
  int64_t inner, n, pixels, part;

  FilterGradTile(const FilterGradJob<T, A>& job, const FilterGradScratch<A>& scratch, RowCache<T, A>& cache,
                 int64_t inner, int64_t n)
      : job(job),
        scratch(scratch),
        cache(cache),
        inner(inner),
        n(n),
        pixels((n + job.h.period - 1) / job.h.period),
        part(cache.part()) {}

  // f(phase, where its numbers start, how many they are)
  template <class F>
  void each_phase(F f) const {
    const int64_t period = job.h.period;
    for (int64_t phase = 0; phase < std::min(period, n); ++phase)
      f(job.h.phases[phase], phase * pixels * inner, (n - phase + period - 1) / period * inner);
  }
  // Where the taps of a phase read a row of x.
  void point(const A* row, const FirPhase& q) const {
    for (int64_t s = 0; s < q.count; ++s) {
      const int64_t i = q.first - job.h.low + s;
      scratch.pointers[s] = row + (i % job.h.step) * part + i / job.h.step * inner;
    }
  }
  void add_products(const A* g, int64_t numbers, int64_t taps, double* to, int64_t step) const {
    std::fill(scratch.products, scratch.products + taps, 0.0);
    products(g, numbers, taps, scratch.pointers, scratch.products);
    for (int64_t s = 0; s < taps; ++s) to[s * step] += scratch.products[s];
  }
  // The products of every tap across with g.
  void across(const A* row, double* sums) const {
    each_phase([&](const FirPhase& q, int64_t at, int64_t numbers) {
      point(row, q);
      add_products(scratch.g + at, numbers, q.count, sums + q.tap, job.h.up);
    });
  }

  void whole(const FirWindow& w, double* sums) const {
    for (int64_t t = w.skipped; t < w.skipped + w.count; ++t)
      across(cache.get(w.first - w.skipped + t), sums + (job.v.phases[w.phase].tap + t * job.v.up) * job.h.taps);
  }
  void by_x(const FirWindow& w, double* sums) const {
    for (int64_t t = 0; t < w.count; ++t) scratch.pointers[t] = cache.get(w.first + t);
    weighted_sum(scratch.sum, part * job.h.step, w.count, job.factors->coef_y(w.phase) + w.skipped, scratch.pointers,
                 0);
    across(scratch.sum, sums);
  }
  const A* widened(int64_t row) const {
    const int64_t slot = row % job.v.most;
    A* out = scratch.wide + slot * scratch.width;
    if (scratch.held_wide[slot] == row) return out;
    scratch.held_wide[slot] = row;
    const A* from = cache.get(row);
    each_phase([&](const FirPhase& q, int64_t at, int64_t numbers) {
      point(from, q);
      weighted_sum(out + at, numbers, q.count, job.factors->coef_x(&q - job.h.phases.data()), scratch.pointers, 0);
    });
    return out;
  }
  void by_y(const FirWindow& w, double* sums) const {
    for (int64_t t = 0; t < w.count; ++t) widened(w.first + t);
    each_phase([&](const FirPhase&, int64_t at, int64_t numbers) {
      for (int64_t t = 0; t < w.count; ++t) scratch.pointers[t] = widened(w.first + t) + at;
      add_products(scratch.g + at, numbers, w.count, sums + job.v.phases[w.phase].tap + w.skipped * job.v.up, job.v.up);
    });
  }
};

// Adds to sums (FilterGradCall::sums) what rows [begin, end) of plane `plane` of the output's gradient give.
template <class T, class A>
void filter_grad_rows(const FilterGradJob<T, A>& job, int64_t plane, int64_t begin, int64_t end,
                      const FilterGradScratch<A>& scratch, double* sums) {
  const FirLine &h = job.h, &v = job.v;
  const int64_t inner = job.view.width(plane);
  const T* g = job.g + job.view.offset(plane, job.gs);
  RowCache<T, A> cache{job.x + job.view.offset(plane, job.xs),
                       job.xs,
                       inner,
                       0,
                       0,
                       0,
                       0,
                       v.most,
                       h.step,
                       scratch.length,
                       scratch.rows,
                       scratch.room,
                       scratch.held};
  for (int64_t left = 0; left < h.out; left += job.tile) {
    const int64_t n = std::min(job.tile, h.out - left);
    const int64_t low = h.low + left / h.period * h.step;
    cache.start(low, low + h.span(n), h.in);
    std::fill(scratch.held_wide, scratch.held_wide + v.most, int64_t(-1));
    const FilterGradTile<T, A> tile(job, scratch, cache, inner, n);
    for (int64_t o = begin; o < end; ++o) {
      const FirWindow w(v, o);
      if (w.count == 0) continue;
      A* whole = h.period > 1 ? scratch.room : scratch.g;
      gather_row(g + o * job.gs.h + left * job.gs.w, job.gs.w, job.gs.c, n, inner, whole);
      if (h.period > 1) split_row(whole, n, inner, h.period, scratch.g, tile.pixels * inner);
      if (job.factors == nullptr) tile.whole(w, sums);
      if (job.want_x) tile.by_x(w, sums);
      if (job.want_y) tile.by_y(w, sums + h.taps);
    }
  }
}
