// The loops of upfirdn2d's filter gradient; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_rows.h"
#include "cpu/fir_vectors.h"

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

// Adds to sums [KH, KW], in correlation order, what rows [begin, end) of plane `plane` of the output's gradient give.
template <class T, class A>
void filter_grad_rows(const FilterGradJob<T>& job, int64_t plane, int64_t begin, int64_t end,
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
    const int64_t part = cache.part(), pixels = (n + h.period - 1) / h.period;
    for (int64_t o = begin; o < end; ++o) {
      const FirPhase& f = v.phases[o % v.period];
      const int64_t first = f.first + o / v.period * v.step;
      const int64_t t0 = std::min(f.count, std::max<int64_t>(0, -first));
      const int64_t t1 = std::min(f.count, v.in - first);
      if (t1 <= t0) continue;
      A* whole = h.period > 1 ? scratch.room : scratch.g;
      gather_row(g + o * job.gs.h + left * job.gs.w, job.gs.w, job.gs.c, n, inner, whole);
      if (h.period > 1) split_row(whole, n, inner, h.period, scratch.g, pixels * inner);
      for (int64_t t = t0; t < t1; ++t) {
        const A* from = cache.get(first + t);
        for (int64_t phase = 0; phase < std::min(h.period, n); ++phase) {
          const FirPhase& q = h.phases[phase];
          for (int64_t s = 0; s < q.count; ++s) {
            const int64_t i = q.first - h.low + s;
            scratch.pointers[s] = from + (i % h.step) * part + i / h.step * inner;
            scratch.products[s] = 0;
          }
          const int64_t m = (n - phase + h.period - 1) / h.period;
          products(scratch.g + phase * pixels * inner, m * inner, q.count, scratch.pointers, scratch.products);
          double* to = sums + (f.tap + t * v.up) * h.taps + q.tap;
          for (int64_t s = 0; s < q.count; ++s) to[s * h.up] += scratch.products[s];
        }
      }
    }
  }
}
