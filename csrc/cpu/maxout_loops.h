// The loops of maxout over rows of [rows, pieces, inner]; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 512;

// Takes x where it is larger, or the first NaN; `which` becomes p there.
template <class acc_t>
inline void take_larger(const acc_t* __restrict x, acc_t* __restrict best, int32_t* __restrict which, int32_t p,
                        int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const bool take = !(x[i] <= best[i]) & (best[i] == best[i]);
    best[i] = take ? x[i] : best[i];
    which[i] = take ? p : which[i];
  }
}

template <class T, class I, class acc_t>
inline void store_results(const acc_t* best, const int32_t* which, T* y, I* index, int64_t n) {
  store_block(best, y, n);
  if (index != nullptr)
    for (int64_t i = 0; i < n; ++i) index[i] = I(which[i]);
}

// n results from neighbouring pieces at x; kPieces 0 for any number.
template <int kPieces, class acc_t>
inline void take_largest(const acc_t* __restrict x, acc_t* __restrict best, int32_t* __restrict which, int64_t n,
                         int64_t any) {
  const int64_t pieces = kPieces ? kPieces : any;
  for (int64_t i = 0; i < n; ++i) {
    acc_t most = x[i * pieces];
    int32_t at = 0;
    for (int64_t p = 1; p < pieces; ++p) {
      const acc_t value = x[i * pieces + p];
      const bool take = !(value <= most) & (most == most);
      most = take ? value : most;
      at = take ? int32_t(p) : at;
    }
    best[i] = most;
    which[i] = at;
  }
}

template <class T, class I>
void value_rows(const T* x, T* y, I* index, int64_t begin, int64_t end, int64_t pieces, int64_t inner) {
  using acc_t = at::opmath_type<T>;
  constexpr int64_t kRoom = 4096;
  acc_t best[kBlock], buffer[kRoom];
  int32_t which[kBlock];
  if (inner == 1 && pieces <= kRoom) {
    const auto run = pieces == 2   ? take_largest<2, acc_t>
                     : pieces == 3 ? take_largest<3, acc_t>
                     : pieces == 4 ? take_largest<4, acc_t>
                     : pieces == 5 ? take_largest<5, acc_t>
                                   : take_largest<0, acc_t>;
    const int64_t step = std::min(kBlock, kRoom / pieces);
    for (int64_t row = begin; row < end; row += step) {
      const int64_t n = std::min(step, end - row);
      run(as_acc(x + row * pieces, buffer, n * pieces), best, which, n, pieces);
      store_results(best, which, y + row, index ? index + row : nullptr, n);
    }
    return;
  }
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t i = 0; i < inner; i += kBlock) {
      const int64_t n = std::min(kBlock, inner - i), to = row * inner + i;
      const T* from = x + row * pieces * inner + i;
      load_block(from, best, n);
      std::fill(which, which + n, 0);
      for (int64_t p = 1; p < pieces; ++p) take_larger(as_acc(from + p * inner, buffer, n), best, which, int32_t(p), n);
      store_results(best, which, y + to, index ? index + to : nullptr, n);
    }
  }
}

template <int kPieces, class B, class I>
inline void scatter_neighbours(const B* __restrict g, const I* __restrict index, B* __restrict out, int64_t n,
                               int64_t any) {
  const int64_t pieces = kPieces ? kPieces : any;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t p = 0; p < pieces; ++p) out[i * pieces + p] = int64_t(index[i]) == p ? g[i] : B(0);
}

// Numbers as bits B, so that no dtype is converted.
template <class B, class I>
void scatter_rows(const B* g, const I* index, B* out, int64_t begin, int64_t end, int64_t pieces, int64_t inner) {
  if (inner == 1) {
    const auto run = pieces == 2   ? scatter_neighbours<2, B, I>
                     : pieces == 3 ? scatter_neighbours<3, B, I>
                     : pieces == 4 ? scatter_neighbours<4, B, I>
                     : pieces == 5 ? scatter_neighbours<5, B, I>
                                   : scatter_neighbours<0, B, I>;
    return run(g + begin, index + begin, out + begin * pieces, end - begin, pieces);
  }
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < inner; i += kBlock) {
      const int64_t n = std::min(kBlock, inner - i);
      const B* __restrict from = g + row * inner + i;
      const I* __restrict which = index + row * inner + i;
      for (int64_t p = 0; p < pieces; ++p) {
        B* __restrict to = out + (row * pieces + p) * inner + i;
        const I own = I(p);
        for (int64_t j = 0; j < n; ++j) to[j] = which[j] == own ? from[j] : B(0);
      }
    }
}

template <class B, class I>
void gather_rows(const B* v, const I* index, B* out, int64_t begin, int64_t end, int64_t pieces, int64_t inner) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t i = 0; i < inner; ++i) {
      const int64_t to = row * inner + i;
      out[to] = v[(row * pieces + index[to]) * inner + i];
    }
}
