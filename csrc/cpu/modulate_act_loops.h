// The loops of modulate_act over the units of a Layout; compiled once for each instruction set (foreach_isa.h).

// y = f(scale x + shift).
template <Act A, class C>
void value_tile(const C* x, const C* scale, const C* shift, C* y, int64_t n, const ActParams& p) {
  const C alpha = p.alpha, gain = p.gain, bound = p.bound;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = bias_act_value<A>(scale[i] * x[i] + shift[i], alpha, gain, bound);
}

// gu = g f'(u).
template <Act A, class C>
void first_tile(const C* x, const C* scale, const C* shift, const C* g, C* gu, int64_t n, const ActParams& p) {
  const C alpha = p.alpha, gain = p.gain, bound = p.bound;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    gu[i] = bias_act_derivative<A, 1>(g[i], scale[i] * x[i] + shift[i], alpha, gain, bound);
}

// gu as above, q becomes q f'(u), v = g q f''(u).
template <Act A, class C>
void second_tile(const C* x, const C* scale, const C* shift, const C* g, C* q, C* gu, C* v, int64_t n,
                 const ActParams& p) {
  const C alpha = p.alpha, gain = p.gain, bound = p.bound;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const C u = scale[i] * x[i] + shift[i], direction = q[i];
    const C slope = bias_act_derivative<A, 1>(C(1), u, alpha, gain, bound);
    gu[i] = g[i] * slope;
    q[i] = direction * slope;
    v[i] = bias_act_derivative<A, 2>(g[i] * direction, u, alpha, gain, bound);
  }
}

template <class C>
struct ActTiles {
  void (*value)(const C*, const C*, const C*, C*, int64_t, const ActParams&);
  void (*first)(const C*, const C*, const C*, const C*, C*, int64_t, const ActParams&);
  void (*second)(const C*, const C*, const C*, const C*, C*, C*, C*, int64_t, const ActParams&);
};

template <class C>
ActTiles<C> tiles_of(Act act) {
  ActTiles<C> tiles{};
  with_act(act, [&](auto a) { tiles = {value_tile<a.value, C>, first_tile<a.value, C>, second_tile<a.value, C>}; });
  return tiles;
}

// `rows` whole runs of `length` numbers side by side in memory, from (sample, o, i).
struct Tile {
  int64_t sample, o, i, rows, length, at;
  int64_t count() const { return rows * length; }
};

template <class F>
inline void each_tile(const Layout& l, int64_t unit, F f) {
  const int64_t ib = unit % l.inner_blocks, ob = unit / l.inner_blocks % l.outer_blocks;
  const int64_t sample = unit / l.inner_blocks / l.outer_blocks;
  const int64_t i0 = ib * l.inner_block, i1 = std::min(l.inner, i0 + l.inner_block);
  const int64_t o0 = ob * l.outer_block, o1 = std::min(l.outer, o0 + l.outer_block);
  const int64_t rows = l.inner_blocks == 1 ? std::max<int64_t>(1, kTile / l.inner) : 1;
  for (int64_t o = o0; o < o1; o += rows)
    for (int64_t i = i0; i < i1; i += kTile)
      f(Tile{sample, o, i, std::min(rows, o1 - o), std::min(kTile, i1 - i), (sample * l.outer + o) * l.inner + i});
}

// The numbers of a Small that belong to a tile, written out. What a tile shares with the one before stays.
template <class C>
class Spread {
 public:
  Spread(const Layout& l, const Small<C>& s) : last_(l.last), small_(s) {}

  const C* of(const Tile& t) {
    const C* channel = small_.channel ? small_.channel + t.sample * small_.channel_pitch : nullptr;
    const C* pixel = small_.pixel ? small_.pixel + t.sample * small_.pixel_pitch : nullptr;
    const C *outer = last_ ? pixel : channel, *inner = last_ ? channel : pixel;
    if (inner == nullptr) {
      if (filled_ >= t.count() && (outer == nullptr || (t.rows == 1 && t.o == row_))) return buffer_;
      filled_ = t.count();
    }
    row_ = t.o;
    if (t.length == 9)  // a 3x3 kernel
      fill<9>(t, outer, inner);
    else
      fill<0>(t, outer, inner);
    return buffer_;
  }

 private:
  template <int64_t kLength>
  void fill(const Tile& t, const C* outer, const C* inner) {
    const int64_t length = kLength ? kLength : t.length;
    const C base = small_.none() ? small_.otherwise : C(0);
    for (int64_t r = 0; r < t.rows; ++r) {
      C* to = buffer_ + r * length;
      const C all = outer ? outer[t.o + r] : base;
      if (inner) {
        const C* from = inner + t.i;
        for (int64_t j = 0; j < length; ++j) to[j] = all + from[j];
      } else {
        for (int64_t j = 0; j < length; ++j) to[j] = all;
      }
    }
  }

  bool last_;
  Small<C> small_;
  int64_t filled_ = 0, row_ = -1;
  C buffer_[kTile];
};

template <class C>
inline void add_sums(const Layout& l, int64_t unit, const Tile& t, const C* x, const Sums& sums) {
  const int64_t ib = unit % l.inner_blocks, ob = unit / l.inner_blocks % l.outer_blocks;
  double *outer = l.last ? sums.pixel : sums.channel, *inner = l.last ? sums.channel : sums.pixel;
  if (outer != nullptr) outer += (t.sample * l.inner_blocks + ib) * l.outer + t.o;
  if (inner != nullptr) inner += (t.sample * l.outer_blocks + ob) * l.inner + t.i;
  for (int64_t r = 0; r < t.rows; ++r, x += t.length) {
    if (outer != nullptr && t.length >= 32) {
      outer[r] += sum_block(x, t.length);
    } else if (outer != nullptr) {
      C sum = 0;
      for (int64_t j = 0; j < t.length; ++j) sum += x[j];
      outer[r] += sum;
    }
    if (inner != nullptr)
      for (int64_t j = 0; j < t.length; ++j) inner[j] += x[j];
  }
}

template <class T, class C>
inline void write(const C* from, T* to, int64_t n) {
  if (to != nullptr) store_block(from, to, n);
}

template <class T, class C>
void value_unit(const Layout& l, int64_t unit, const Job<T, C>& job, Act act, const ActParams& p) {
  const auto tiles = tiles_of<C>(act);
  C buffer[kTile];
  Spread<C> scales(l, job.scale), shifts(l, job.shift);
  each_tile(l, unit, [&](const Tile& t) {
    const int64_t n = t.count();
    const C *scale = scales.of(t), *shift = shifts.of(t);
    const C* x = as_acc(job.x + t.at, buffer, n);
    if constexpr (std::is_same_v<T, C>) {
      tiles.value(x, scale, shift, job.out + t.at, n, p);
    } else {
      tiles.value(x, scale, shift, buffer, n, p);
      store_block(buffer, job.out + t.at, n);
    }
  });
}

// `bare`: f is u -> gain u.
template <class T, class C>
void backward_unit(const Layout& l, int64_t unit, const Job<T, C>& job, Act act, const ActParams& p, bool bare) {
  const auto tiles = tiles_of<C>(act);
  const C gain = p.gain;
  C x_buffer[kTile], g_buffer[kTile], gx[kTile], gu[kTile];
  Spread<C> scales(l, job.scale), shifts(l, job.shift);
  const bool sums_x = job.of_scale.channel != nullptr, sums = job.of_shift.channel || job.of_shift.pixel;
  each_tile(l, unit, [&](const Tile& t) {
    const int64_t n = t.count();
    const C* scale = scales.of(t);
    const C* g = as_acc(job.g + t.at, g_buffer, n);
    const C* x = job.x ? as_acc(job.x + t.at, x_buffer, n) : nullptr;
    if (bare) {
      for (int64_t j = 0; j < n; ++j) gu[j] = gain * g[j];
    } else {
      tiles.first(x, scale, shifts.of(t), g, gu, n, p);
    }
    if (job.out != nullptr) {
      C* to = gx;
      if constexpr (std::is_same_v<T, C>) to = job.out + t.at;
      for (int64_t j = 0; j < n; ++j) to[j] = scale[j] * gu[j];
      if constexpr (!std::is_same_v<T, C>) store_block(gx, job.out + t.at, n);
    }
    if (sums) add_sums(l, unit, t, gu, job.of_shift);
    if (sums_x) {
      for (int64_t j = 0; j < n; ++j) gu[j] *= x[j];
      add_sums(l, unit, t, gu, job.of_scale);
    }
  });
}

template <class T, class C>
void second_unit(const Layout& l, int64_t unit, const Job<T, C>& job, Act act, const ActParams& p, bool bare) {
  const auto tiles = tiles_of<C>(act);
  const C gain = p.gain;
  const bool curved = !piecewise_linear(act);
  C x_buffer[kTile], g_buffer[kTile], h_buffer[kTile];
  Spread<C> scales(l, job.scale), shifts(l, job.shift), h_scales(l, job.h_scale), h_shifts(l, job.h_shift);
  C q[kTile], gu[kTile], v[kTile];
  each_tile(l, unit, [&](const Tile& t) {
    const int64_t n = t.count();
    const C *scale = scales.of(t), *h_scale = h_scales.of(t), *h_shift = h_shifts.of(t);
    const C* g = as_acc(job.g + t.at, g_buffer, n);
    const C* x = job.x ? as_acc(job.x + t.at, x_buffer, n) : nullptr;
    const C* h = job.h ? as_acc(job.h + t.at, h_buffer, n) : nullptr;
    for (int64_t j = 0; j < n; ++j) q[j] = h ? h_shift[j] + scale[j] * h[j] : h_shift[j];
    if (!job.h_scale.none())
      for (int64_t j = 0; j < n; ++j) q[j] += h_scale[j] * x[j];
    if (bare) {
      for (int64_t j = 0; j < n; ++j) q[j] *= gain, gu[j] = gain * g[j];
    } else {
      tiles.second(x, scale, shifts.of(t), g, q, gu, v, n, p);
    }
    write(q, job.out_g ? job.out_g + t.at : nullptr, n);
    if (job.out != nullptr) {
      for (int64_t j = 0; j < n; ++j) q[j] = h_scale[j] * gu[j];
      if (curved)
        for (int64_t j = 0; j < n; ++j) q[j] += scale[j] * v[j];
      store_block(q, job.out + t.at, n);
    }
    if (curved && (job.of_shift.channel || job.of_shift.pixel)) add_sums(l, unit, t, v, job.of_shift);
    if (job.of_scale.channel != nullptr) {
      for (int64_t j = 0; j < n; ++j) q[j] = h ? gu[j] * h[j] : C(0);
      if (curved)
        for (int64_t j = 0; j < n; ++j) q[j] += v[j] * x[j];
      add_sums(l, unit, t, q, job.of_scale);
    }
  });
}

// Sums of squares of runs of `length` numbers; kLength 0 for any.
template <int64_t kLength, class T, class C>
void power_rows(const T* x, C* out, int64_t rows, int64_t any) {
  const int64_t length = kLength ? kLength : any;
  C buffer[kTile];
  if (length > kTile) {
    for (int64_t r = 0; r < rows; ++r) {
      double total = 0;
      for (int64_t i = 0; i < length; i += kTile) {
        const int64_t n = std::min(kTile, length - i);
        const C* a = as_acc(x + r * length + i, buffer, n);
        for (int64_t j = 0; j < n; ++j) buffer[j] = a[j] * a[j];
        total += sum_block(buffer, n);
      }
      out[r] = total;
    }
    return;
  }
  const int64_t step = kTile / length;
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t n = std::min(step, rows - r);
    const C* a = as_acc(x + r * length, buffer, n * length);
    for (int64_t k = 0; k < n; ++k) {
      C sum = 0;
      for (int64_t j = 0; j < length; ++j) sum += a[k * length + j] * a[k * length + j];
      out[r + k] = sum;
    }
  }
}

template <class T, class C>
void power_run(const T* x, C* out, int64_t rows, int64_t length) {
  (length == 9 ? power_rows<9, T, C> : length == 1 ? power_rows<1, T, C> : power_rows<0, T, C>)(x, out, rows, length);
}
