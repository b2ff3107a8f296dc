// The loops of filtered_lrelu; compiled once for each instruction set (foreach_isa.h).
#include "cpu/fir_across.h"

// out[i] = activation of sum_t c[t] * p[t][i], for n numbers: with their signs written to `bits`, or, where these are
// read, that sum times the slope they tell. Up to kSignGroup numbers beyond the n are read of p and written to out.
template <Signs S, bool Bounded, int T, class A>
void activate_of(A* out, uint8_t* bits, int64_t n, int64_t taps, const A* c, const A* const* p, const Slopes<A>& s) {
  using V = FirVector<A>;
  using Real = typename V::type;
  using Whole = decltype(Real{} > Real{});
  typedef uint8_t Bytes __attribute__((vector_size(V::lanes)));
  const Real above = V::all(s.above), below = V::all(s.below), high = V::all(s.bound), low = V::all(-s.bound);
  for (int64_t group = 0; group < n; group += kSignGroup) {
    const int64_t quarter = sign_quarter(n, group);
    // The last vector of a quarter reaches into the next, whose own numbers are written over that after.
    for (int64_t k = (quarter - 1) / V::lanes * V::lanes; k >= 0; k -= V::lanes) {
      Real u[4];
      sum_vectors<T>(u, taps, c, p, group + k, quarter);
      uint8_t* place = bits + group / 4 + k;
      const int64_t room = std::min(V::lanes, quarter - k);
      Bytes packed{};
      Whole code{};
      if constexpr (S == Signs::read) {
        room == V::lanes ? memcpy(&packed, place, V::lanes) : memcpy(&packed, place, room);
        code = __builtin_convertvector(packed, Whole);
      }
      for (int j = 0; j < 4; ++j) {
        Real v;
        if constexpr (S == Signs::read) {
          const Whole two = code >> (2 * j);
          v = u[j] * ((two & kBelow) != 0 ? below : above);
          v = (two & kClamped) != 0 ? Real{} : v;
        } else {
          const Whole positive = u[j] > Real{};
          v = u[j] * (positive ? above : below);
          Whole bits = ~positive & kBelow;
          if constexpr (Bounded) {
            bits |= ((v > high) | (v < low)) & kClamped;
            v = v > high ? high : v;
            v = v < low ? low : v;
          }
          if constexpr (S == Signs::write) code |= bits << (2 * j);
        }
        V::store(out + group + k + j * quarter, v);
      }
      if constexpr (S == Signs::write) {
        packed = __builtin_convertvector(code, Bytes);
        room == V::lanes ? memcpy(place, &packed, V::lanes) : memcpy(place, &packed, room);
      }
    }
  }
}

template <int T, class A>
void activate_taps(Signs signs, A* out, uint8_t* bits, int64_t n, int64_t taps, const A* c, const A* const* p,
                   const Slopes<A>& s) {
  const auto run = [&](auto f) { f(out, bits, n, taps, c, p, s); };
  const bool bounded = s.bound < INFINITY;
  if (signs == Signs::read) return run(activate_of<Signs::read, false, T, A>);
  if (signs == Signs::write)
    return bounded ? run(activate_of<Signs::write, true, T, A>) : run(activate_of<Signs::write, false, T, A>);
  bounded ? run(activate_of<Signs::none, true, T, A>) : run(activate_of<Signs::none, false, T, A>);
}

template <class A>
void activate(Signs signs, A* out, uint8_t* bits, int64_t n, int64_t taps, const A* c, const A* const* p,
              const Slopes<A>& s) {
  switch (taps) {
    case 1:
      return activate_taps<1>(signs, out, bits, n, taps, c, p, s);
    case 2:
      return activate_taps<2>(signs, out, bits, n, taps, c, p, s);
    case 3:
      return activate_taps<3>(signs, out, bits, n, taps, c, p, s);
    case 6:
      return activate_taps<6>(signs, out, bits, n, taps, c, p, s);
    default:
      return activate_taps<0>(signs, out, bits, n, taps, c, p, s);
  }
}

// f(t, slot of row w.first + t in a ring of `slots`) for the rows of a window.
template <class F>
inline void each_slot(const FirWindow& w, int64_t slots, F f) {
  for (int64_t t = 0, slot = w.first % slots; t < w.count; ++t) {
    f(t, slot);
    if (++slot == slots) slot = 0;
  }
}

// Rows of the upsampled image, activated. Rows of x are widened first, where the filter is separable, so that each is
// filtered across only once.
template <class T, class A>
struct Upsampled {
  const FilteredJob<T, A>& job;
  const FilteredScratch<A>& scratch;
  const FirStage<A>& fir;
  int64_t inner, n;  // numbers of a row
  RowCache<T, A> cache;
  Across<A> across;

  Upsampled(const FilteredJob<T, A>& job, const FilteredScratch<A>& scratch, int64_t plane)
      : job(job),
        scratch(scratch),
        fir(job.up),
        inner(job.view.width(plane)),
        n(fir.h.out * inner),
        cache{job.x + job.view.offset(plane, job.xs),
              job.xs,
              inner,
              0,
              0,
              0,
              0,
              fir.separable ? 1 : fir.v.most,
              1,
              scratch.row_length,
              scratch.rows,
              nullptr,
              scratch.held_rows,
              job.bias ? job.bias + job.view.channel(plane) : nullptr},
        across(fir.h, fir.h.out, inner, scratch.up_room, scratch.up_pointers) {
    cache.start(fir.h.low, fir.h.low + fir.h.span(fir.h.out), fir.h.in);
    std::fill(scratch.held_wide, scratch.held_wide + fir.v.most, int64_t(-1));
    const A* only = scratch.rows;
    if (fir.separable) across.point(&only, 1);
  }

  // Row `row` of x, which is kept in `slot`, row % fir.v.most.
  const A* widened(int64_t row, int64_t slot) {
    A* out = scratch.wide + slot * scratch.wide_length;
    if (scratch.held_wide[slot] == row) return out;
    scratch.held_wide[slot] = row;
    const A* only = cache.get(row);
    across.run(&only, 1, [&](int64_t p) { return fir.coef_x(p); }, fir.h.out, out);
    return out;
  }

  void row(int64_t o, Signs signs, uint8_t* bits, A* out) {
    const FirWindow w(fir.v, o);
    const A** rows = scratch.row_pointers;
    const A one = 1, *taps = &one;
    int64_t count = 1;
    rows[0] = scratch.plain;
    if (w.count == 0) {
      std::fill(scratch.plain, scratch.plain + n, A(0));
    } else if (fir.separable) {
      count = w.count;
      taps = fir.coef_y(w.phase) + w.skipped;
      each_slot(w, fir.v.most, [&](int64_t t, int64_t slot) { rows[t] = widened(w.first + t, slot); });
    } else {
      for (int64_t t = 0; t < w.count; ++t) rows[t] = cache.get(w.first + t);
      const auto coef = [&](int64_t p) { return fir.coef(w.phase, p) + w.skipped * fir.h.phases[p].count; };
      across.point(rows, w.count);
      across.run(rows, w.count, coef, fir.h.out, scratch.plain);
      rows[0] = scratch.plain;
    }
    activate(signs, out, bits, n, count, taps, rows, job.slopes);
    std::fill(out + n, out + n + kSignGroup, A(0));
  }
};

template <class A>
void add_row(const A* row, int64_t pixels, int64_t inner, double* sums) {
  if (inner == 1) {
    *sums += sum_block(row, pixels);
    return;
  }
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < inner; ++c) sums[c] += row[i * inner + c];
}

// Rows [begin, end) of plane `plane` of the output; rows [kept, kept_end) of the upsampled image are this call's to
// write the signs of.
template <class T, class A>
void filtered_rows(const FilteredJob<T, A>& job, int64_t plane, int64_t begin, int64_t end, int64_t kept,
                   int64_t kept_end, const FilteredScratch<A>& scratch) {
  const FirStage<A>& fir = job.down;
  const int64_t inner = job.view.width(plane), n = fir.h.out, span = fir.h.span(n) * inner;
  const int64_t sign_row = inner * sign_bytes(job.up.h.out);
  uint8_t* bits = job.bits + job.first_bits(plane);
  if (job.signs == Signs::write) memset(bits + kept * sign_row, 0, (kept_end - kept) * sign_row);
  Upsampled<T, A> upsampled(job, scratch, plane);
  Across<A> across(fir.h, n, inner, scratch.down_room, scratch.down_pointers);
  const A* sum = scratch.sum;
  if (fir.separable) across.point(&sum, 1);
  std::fill(scratch.middle, scratch.middle + fir.v.most * scratch.middle_length, A(0));
  std::fill(scratch.held_middle, scratch.held_middle + fir.v.most, int64_t(-1));
  const int64_t before = std::max<int64_t>(0, -fir.h.low) * inner, from = before + fir.h.low * inner;
  const auto middle = [&](int64_t row, int64_t slot) {
    A* out = scratch.middle + slot * scratch.middle_length;
    if (scratch.held_middle[slot] != row) {
      const bool ours = kept <= row && row < kept_end;
      scratch.held_middle[slot] = row;
      upsampled.row(row, job.signs == Signs::write && !ours ? Signs::none : job.signs, bits + row * sign_row,
                    out + before);
    }
    return out + from;
  };
  T* y = job.y ? job.y + job.view.offset(plane, job.ys) : nullptr;
  const bool dense = job.ys.w == inner && (inner == 1 || job.ys.c == 1);
  const bool direct = std::is_same_v<T, A> && y != nullptr && dense;
  for (int64_t o = begin; o < end; ++o) {
    const FirWindow w(fir.v, o);
    const A** rows = scratch.middle_pointers;
    each_slot(w, fir.v.most, [&](int64_t t, int64_t slot) { rows[t] = middle(w.first + t, slot); });
    A* out = direct ? reinterpret_cast<A*>(y + o * job.ys.h) : scratch.out;
    if (w.count == 0) {
      std::fill(out, out + n * inner, A(0));
    } else if (fir.separable) {
      weighted_sum(scratch.sum, span, w.count, fir.coef_y(w.phase) + w.skipped, rows, 0);
      across.run(&sum, 1, [&](int64_t p) { return fir.coef_x(p); }, n, out);
    } else {
      const auto coef = [&](int64_t p) { return fir.coef(w.phase, p) + w.skipped * fir.h.phases[p].count; };
      across.point(rows, w.count);
      across.run(rows, w.count, coef, n, out);
    }
    if (y != nullptr && !direct) scatter_row(out, y + o * job.ys.h, job.ys.w, job.ys.c, n, inner);
    if (job.sums != nullptr) add_row(out, n, inner, job.sums + (plane * fir.v.out + o) * job.view.block);
  }
}
