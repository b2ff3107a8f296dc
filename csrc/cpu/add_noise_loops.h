// The loops of add_noise over the units of a Layout; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 512;

struct Unit {
  int64_t sample, ib, ob, i0, i1, o0, o1;
  Unit(const Layout& l, int64_t unit)
      : sample(unit / l.inner_blocks / l.outer_blocks),
        ib(unit % l.inner_blocks),
        ob(unit / l.inner_blocks % l.outer_blocks),
        i0(ib * l.inner_block),
        i1(std::min(l.inner, i0 + l.inner_block)),
        o0(ob * l.outer_block),
        o1(std::min(l.outer, o0 + l.outer_block)) {}
  int64_t at(const Layout& l, int64_t o, int64_t i) const { return (sample * l.outer + o) * l.inner + i; }
};

template <class C>
inline void add_term(const Term<C>& t, int64_t sample, int64_t o, int64_t i, const C* x, C* y, int64_t n) {
  const C row = t.row[sample * t.row_pitch + o];
  const C* column = t.column + sample * t.column_pitch + i;
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = x[j] + row * column[j];
}

template <class T, class C>
void value_unit(const Layout& l, int64_t unit, const T* x, const Term<C>& a, const Term<C>& b, T* out) {
  const Unit u(l, unit);
  C buffer[kBlock], zero[kBlock] = {};
  for (int64_t o = u.o0; o < u.o1; ++o)
    for (int64_t i = u.i0; i < u.i1; i += kBlock) {
      const int64_t n = std::min(kBlock, u.i1 - i), at = u.at(l, o, i);
      const C* from = x ? as_acc(x + at, buffer, n) : zero;
      C* to = buffer;
      if constexpr (std::is_same_v<T, C>) to = out + at;
      if (a.row != nullptr) {
        add_term(a, u.sample, o, i, from, to, n);
        from = to;
      }
      if (b.row != nullptr) {
        add_term(b, u.sample, o, i, from, to, n);
        from = to;
      }
      if (!std::is_same_v<T, C> || from != to) store_block(from, out + at, n);
    }
}

// Sums of a unit: of each row against the columns' numbers, [samples, inner blocks, outer], and of each column against
// the rows', [samples, outer blocks, inner]; null where not wanted. In double, where products of floats are exact: a
// sum may be small beside its terms.
template <class T, class C>
void sums_unit(const Layout& l, int64_t unit, const T* g, const Term<C>& t, double* rows, double* columns) {
  const Unit u(l, unit);
  C buffer[kBlock];
  double product[kBlock];
  if (rows != nullptr) rows += (u.sample * l.inner_blocks + u.ib) * l.outer;
  if (columns != nullptr) columns += (u.sample * l.outer_blocks + u.ob) * l.inner;
  const C *row = t.row + u.sample * t.row_pitch, *column = t.column + u.sample * t.column_pitch;
  for (int64_t i = u.i0; i < u.i1; i += kBlock) {
    const int64_t n = std::min(kBlock, u.i1 - i);
    for (int64_t o = u.o0; o < u.o1; ++o) {
      const C* from = as_acc(g + u.at(l, o, i), buffer, n);
      if (rows != nullptr) {
        for (int64_t j = 0; j < n; ++j) product[j] = double(from[j]) * column[i + j];
        rows[o] += sum_block(product, n);
      }
      if (columns != nullptr) {
        const double factor = row[o];
#pragma GCC ivdep
        for (int64_t j = 0; j < n; ++j) columns[i + j] += factor * from[j];
      }
    }
  }
}
