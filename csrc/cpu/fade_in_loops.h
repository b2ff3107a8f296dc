// The loops of fade_in over the units of a Walk; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 512;

// Part of a low row, [pixels, length] from `low`. In an image it lies as [pixels, repeats, length] from `at`, that
// again `apart` further on, `times` in all, and all of it on r lines.
struct Piece {
  int64_t pixels, length, repeats, low, at, times, apart;
  int64_t low_count() const { return pixels * length; }
  int64_t count() const { return pixels * repeats * length; }
};

// Pieces of which count() is at most kBlock.
template <class F>
inline void each_piece(const Walk& w, int64_t unit, F f) {
  const int64_t end = std::min(w.rows, (unit + 1) * w.unit_rows), pixel = w.r * w.inner;
  for (int64_t row = unit * w.unit_rows; row < end; ++row) {
    const int64_t low = row * w.columns * w.inner, at = row * w.r * w.line();
    if (pixel <= kBlock) {
      const int64_t most = kBlock / pixel;
      for (int64_t c = 0; c < w.columns; c += most)
        f(Piece{std::min(most, w.columns - c), w.inner, w.r, low + c * w.inner, at + c * pixel, 1, 0});
    } else {
      for (int64_t c = 0; c < w.columns; ++c)
        for (int64_t k = 0; k < w.inner; k += kBlock)
          f(Piece{1, std::min(kBlock, w.inner - k), 1, low + c * w.inner + k, at + c * pixel + k, w.r, w.inner});
    }
  }
}

template <class F>
inline void each_run(const Walk& w, const Piece& p, F f) {
  for (int64_t i = 0; i < w.r; ++i)
    for (int64_t k = 0; k < p.times; ++k) f(p.at + i * w.line() + k * p.apart);
}

template <class C>
inline void enlarge(const C* __restrict low, const Piece& p, C* __restrict out) {
  if (p.length == 1 && p.repeats == 2) {
    for (int64_t i = 0; i < p.pixels; ++i) out[2 * i] = out[2 * i + 1] = low[i];
    return;
  }
  for (int64_t i = 0; i < p.pixels; ++i)
    for (int64_t j = 0; j < p.repeats; ++j)
      for (int64_t k = 0; k < p.length; ++k) out[(i * p.repeats + j) * p.length + k] = low[i * p.length + k];
}

// The adjoint of that.
template <class C>
inline void gather(const C* __restrict from, const Piece& p, C* __restrict low) {
  if (p.length == 1 && p.repeats == 2) {
    for (int64_t i = 0; i < p.pixels; ++i) low[i] = from[2 * i] + from[2 * i + 1];
    return;
  }
  std::fill(low, low + p.low_count(), C(0));
  for (int64_t i = 0; i < p.pixels; ++i)
    for (int64_t j = 0; j < p.repeats; ++j)
      for (int64_t k = 0; k < p.length; ++k) low[i * p.length + k] += from[(i * p.repeats + j) * p.length + k];
}

template <class C>
inline void add_scaled(const C* plus, C factor, const C* x, C* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) y[j] = plus[j] + factor * x[j];
}

template <class T, class C>
void value_unit(const Walk& w, int64_t unit, const Mix<T, C>& m) {
  C buffer[kBlock], low[kBlock], wide[kBlock] = {}, own[kBlock];
  each_piece(w, unit, [&](const Piece& p) {
    const int64_t n = p.count(), few = p.low_count();
    if (m.l != nullptr || m.l2 != nullptr) {
      std::fill(low, low + few, C(0));
      if (m.l != nullptr) add_scaled(low, m.b, as_acc(m.l + p.low, buffer, few), low, few);
      if (m.l2 != nullptr) add_scaled(low, -m.a2, as_acc(m.l2 + p.low, buffer, few), low, few);
      enlarge(low, p, wide);
    }
    each_run(w, p, [&](int64_t at) {
      const C* from = wide;
      C* to = own;
      if constexpr (std::is_same_v<T, C>) to = m.out + at;
      if (m.x != nullptr) {
        add_scaled(from, m.a, as_acc(m.x + at, buffer, n), to, n);
        from = to;
      }
      if (m.x2 != nullptr) {
        add_scaled(from, m.a2, as_acc(m.x2 + at, buffer, n), to, n);
        from = to;
      }
      if (!std::is_same_v<T, C> || from != to) store_block(from, m.out + at, n);
    });
  });
}

template <class T, class C>
void adjoint_unit(const Walk& w, int64_t unit, const Adjoint<T, C>& a) {
  C buffer[kBlock], other[kBlock], low[kBlock], wide[kBlock] = {}, total[kBlock], product[kBlock];
  double term[kBlock];  // a sum may be small beside its terms
  each_piece(w, unit, [&](const Piece& p) {
    const int64_t n = p.count(), few = p.low_count();
    if (a.sums != nullptr && a.l != nullptr) enlarge(as_acc(a.l + p.low, buffer, few), p, wide);
    std::fill(total, total + n, C(0));
    each_run(w, p, [&](int64_t at) {
      const C* g = as_acc(a.g + at, buffer, n);
      if (a.gl != nullptr)
        for (int64_t j = 0; j < n; ++j) total[j] += g[j];
      if (a.gx != nullptr) {
        for (int64_t j = 0; j < n; ++j) product[j] = a.a * g[j];
        store_block(product, a.gx + at, n);
      }
      if (a.sums == nullptr) return;
      if (a.x != nullptr) {
        const C* x = as_acc(a.x + at, other, n);
        for (int64_t j = 0; j < n; ++j) term[j] = double(g[j]) * (double(x[j]) - wide[j]);
      } else {
        for (int64_t j = 0; j < n; ++j) term[j] = double(g[j]) * -wide[j];
      }
      a.sums[unit] += sum_block(term, n);
    });
    if (a.gl == nullptr) return;
    gather(total, p, low);
    for (int64_t j = 0; j < few; ++j) low[j] *= a.b;
    store_block(low, a.gl + p.low, few);
  });
}
