// The loops of pixel_norm; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 512;
constexpr int64_t kTogether = 32;  // vectors' elements summed before their sum joins the total, so that none is lost

// The sums' terms of one block: x x; g x; v x, v g.
template <int K, class acc_t>
inline acc_t term(int which, acc_t x, acc_t g, acc_t v) {
  return which == 0 ? x * x : which == 1 ? g * x : which == 2 ? v * x : v * g;
}

template <int K, class T, class acc_t>
struct Operands {
  acc_t buffers[K + 1][kBlock];
  const acc_t *x, *g, *v;

  void load(const PixelNormArgs<T>& a, int64_t at, int64_t n) {
    x = as_acc(a.x + at, buffers[0], n);
    g = v = x;
    if constexpr (K > 0) g = as_acc(a.g + at, buffers[1], n);
    if constexpr (K > 1) v = as_acc(a.v + at, buffers[2], n);
  }
};

// f(where the results of a block go) -> nothing: the target itself, or numbers to be rounded to it.
template <class acc_t, class T, class F>
inline void write_block(T* target, int64_t n, F f) {
  if constexpr (std::is_same_v<T, acc_t>) {
    f(target);
  } else {
    acc_t out[kBlock];
    f(out);
    store_block(out, target, n);
  }
}

// The results of a block; coefficients(j) is the PixelNorm of element j.
template <int K, class T, class acc_t, class F>
inline void emit(const PixelNormArgs<T>& a, const Operands<K, T, acc_t>& in, int64_t at, int64_t n, F coefficients) {
  const acc_t* __restrict x = in.x;
  const acc_t* __restrict g = in.g;
  const acc_t* __restrict v = in.v;
  if (a.for_x != nullptr)
    write_block<acc_t>(a.for_x + at, n, [&](acc_t* out) {
#pragma GCC ivdep
      for (int64_t j = 0; j < n; ++j) {
        const auto& c = coefficients(j);
        acc_t value = c.x_on_x * x[j];
        if constexpr (K > 0) value += c.x_on_g * g[j];
        if constexpr (K > 1) value += c.x_on_v * v[j];
        out[j] = value;
      }
    });
  if constexpr (K > 1)
    if (a.for_g != nullptr)
      write_block<acc_t>(a.for_g + at, n, [&](acc_t* out) {
#pragma GCC ivdep
        for (int64_t j = 0; j < n; ++j) out[j] = coefficients(j).g_on_x * x[j] + coefficients(j).g_on_v * v[j];
      });
}

// Vectors that lie together: [rows, count].
template <int K, class T>
void rows_unit(const PixelNormArgs<T>& a, int64_t begin, int64_t end, int64_t count, double eps) {
  using acc_t = at::opmath_type<T>;
  Operands<K, T, acc_t> in;
  acc_t products[kBlock];
  for (int64_t row = begin; row < end; ++row) {
    double totals[kPixelNormSums<K>] = {};
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t n = std::min(kBlock, count - i);
      in.load(a, row * count + i, n);
      for (int which = 0; which < kPixelNormSums<K>; ++which) {
        for (int64_t j = 0; j < n; ++j) products[j] = term<K>(which, in.x[j], in.g[j], in.v[j]);
        totals[which] += sum_block(products, n);
      }
    }
    acc_t sums[kPixelNormSums<K>];
    std::copy(totals, totals + kPixelNormSums<K>, sums);
    const PixelNorm<acc_t, K> c(sums, acc_t(count), acc_t(eps));
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t n = std::min(kBlock, count - i);
      in.load(a, row * count + i, n);
      emit<K>(a, in, row * count + i, n, [&](int64_t) -> const PixelNorm<acc_t, K>& { return c; });
    }
  }
}

// n vectors side by side from element `at`, their elements `inner` apart.
template <int K, class T>
void columns_unit(const PixelNormArgs<T>& a, int64_t at, int64_t n, int64_t count, int64_t inner, double eps) {
  using acc_t = at::opmath_type<T>;
  constexpr int S = kPixelNormSums<K>;
  Operands<K, T, acc_t> in;
  acc_t totals[S][kBlock] = {}, part[S][kBlock];
  for (int64_t c = 0; c < count;) {
    for (int s = 0; s < S; ++s) std::fill(part[s], part[s] + n, acc_t(0));
    for (const int64_t stop = std::min(c + kTogether, count); c < stop; ++c) {
      in.load(a, at + c * inner, n);
      for (int s = 0; s < S; ++s) {
        acc_t* __restrict sum = part[s];
        for (int64_t j = 0; j < n; ++j) sum[j] += term<K>(s, in.x[j], in.g[j], in.v[j]);
      }
    }
    for (int s = 0; s < S; ++s)
      for (int64_t j = 0; j < n; ++j) totals[s][j] += part[s][j];
  }
  // As arrays, so that what follows is vectorised.
  acc_t x_on_x[kBlock], x_on_g[kBlock], x_on_v[kBlock], g_on_x[kBlock], g_on_v[kBlock];
  for (int64_t j = 0; j < n; ++j) {
    acc_t sums[S];
    for (int s = 0; s < S; ++s) sums[s] = totals[s][j];
    const PixelNorm<acc_t, K> c(sums, acc_t(count), acc_t(eps));
    x_on_x[j] = c.x_on_x, x_on_g[j] = c.x_on_g, x_on_v[j] = c.x_on_v, g_on_x[j] = c.g_on_x, g_on_v[j] = c.g_on_v;
  }
  struct Columns {
    const acc_t &x_on_x, &x_on_g, &x_on_v, &g_on_x, &g_on_v;
  };
  for (int64_t c = 0; c < count; ++c) {
    in.load(a, at + c * inner, n);
    emit<K>(a, in, at + c * inner, n,
            [&](int64_t j) { return Columns{x_on_x[j], x_on_g[j], x_on_v[j], g_on_x[j], g_on_v[j]}; });
  }
}
