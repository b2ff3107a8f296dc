// Included by foreach_isa.h in each instruction set's namespace: rows of images as the FIR loops want them.

// A 4x4 block turned: in[k] to in[k] + 3 are its rows, out[k] to out[k] + 3 its columns.
template <class A>
inline void turn_block(const A* const (&in)[4], A* const (&out)[4]) {
  typedef A Quad __attribute__((vector_size(4 * sizeof(A))));
  Quad r[4], c[4];
  for (int k = 0; k < 4; ++k) memcpy(&r[k], in[k], sizeof(Quad));
  const Quad low01 = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), low23 = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const Quad high01 = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7), high23 = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  c[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  c[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  c[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  c[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
  for (int k = 0; k < 4; ++k) memcpy(out[k], &c[k], sizeof(Quad));
}

// [inner, pixels], rows x_step apart, to [pixels, inner], rows out_step apart; either way round.
template <class A>
void turn(const A* x, int64_t x_step, A* out, int64_t out_step, int64_t inner, int64_t pixels) {
  int64_t c = 0;
  for (; c + 4 <= inner; c += 4) {
    int64_t i = 0;
    for (; i + 4 <= pixels; i += 4) {
      const A* from = x + c * x_step + i;
      A* to = out + i * out_step + c;
      turn_block<A>({from, from + x_step, from + 2 * x_step, from + 3 * x_step},
                    {to, to + out_step, to + 2 * out_step, to + 3 * out_step});
    }
    for (; i < pixels; ++i)
      for (int64_t k = c; k < c + 4; ++k) out[i * out_step + k] = x[k * x_step + i];
  }
  for (; c < inner; ++c)
    for (int64_t i = 0; i < pixels; ++i) out[i * out_step + c] = x[c * x_step + i];
}

// A row of pixels of `inner` numbers, strides apart, as consecutive accumulation-type numbers.
template <class T, class A>
void gather_row(const T* x, int64_t step, int64_t channel_step, int64_t pixels, int64_t inner, A* out) {
  if (inner == 1 || channel_step == 1) {
    if (step == inner) {
      load_block(x, out, pixels * inner);
    } else if (inner == 1) {
      for (int64_t i = 0; i < pixels; ++i) out[i] = A(x[i * step]);
    } else {
      for (int64_t i = 0; i < pixels; ++i) load_block(x + i * step, out + i * inner, inner);
    }
  } else if (step != 1) {
    for (int64_t c = 0; c < inner; ++c)
      for (int64_t i = 0; i < pixels; ++i) out[i * inner + c] = A(x[i * step + c * channel_step]);
  } else if constexpr (std::is_same_v<T, A>) {
    turn(x, channel_step, out, inner, inner, pixels);
  } else {
    constexpr int64_t kChannels = 4, kPixels = 64;
    A wide[kChannels * kPixels];
    for (int64_t c = 0; c < inner; c += kChannels)
      for (int64_t i = 0; i < pixels; i += kPixels) {
        const int64_t n = std::min(kChannels, inner - c), m = std::min(kPixels, pixels - i);
        for (int64_t k = 0; k < n; ++k) load_block(x + (c + k) * channel_step + i, wide + k * kPixels, m);
        turn(wide, kPixels, out + i * inner + c, inner, n, m);
      }
  }
}

template <class T, class A>
void scatter_row(const A* x, T* out, int64_t step, int64_t channel_step, int64_t pixels, int64_t inner) {
  if (inner == 1 || channel_step == 1) {
    if (step == inner) {
      store_block(x, out, pixels * inner);
    } else if (inner == 1) {
      for (int64_t i = 0; i < pixels; ++i) out[i * step] = T(x[i]);
    } else {
      for (int64_t i = 0; i < pixels; ++i) store_block(x + i * inner, out + i * step, inner);
    }
  } else if (step != 1) {
    for (int64_t c = 0; c < inner; ++c)
      for (int64_t i = 0; i < pixels; ++i) out[i * step + c * channel_step] = T(x[i * inner + c]);
  } else if constexpr (std::is_same_v<T, A>) {
    turn(x, inner, out, channel_step, pixels, inner);
  } else {
    constexpr int64_t kChannels = 4, kPixels = 64;
    A wide[kChannels * kPixels];
    for (int64_t c = 0; c < inner; c += kChannels)
      for (int64_t i = 0; i < pixels; i += kPixels) {
        const int64_t n = std::min(kChannels, inner - c), m = std::min(kPixels, pixels - i);
        turn(x + i * inner + c, inner, wide, kPixels, m, n);
        for (int64_t k = 0; k < n; ++k) store_block(wide + k * kPixels, out + (c + k) * channel_step + i, m);
      }
  }
}

// Every step-th pixel of a row from each residue on, one array a residue, `part` numbers apart.
template <class A>
void split_row(const A* x, int64_t pixels, int64_t inner, int64_t step, A* out, int64_t part) {
  for (int64_t r = 0; r < step; ++r) {
    A* to = out + r * part;
    if (inner == 1)
      for (int64_t i = r; i < pixels; i += step) *to++ = x[i];
    else
      for (int64_t i = r; i < pixels; i += step, to += inner) std::copy(x + i * inner, x + (i + 1) * inner, to);
  }
}

// The last few rows of a plane, as numbers ready to be summed: pixels [low, high) of a row, zero outside the image,
// split into `step` arrays of every step-th pixel.
template <class T, class A>
struct RowCache {
  const T* plane;
  Strides s;
  int64_t inner, low, begin, end, high, slots, step, length;
  A *rows, *room;
  int64_t* held;

  void start(int64_t low_, int64_t high_, int64_t size) {
    low = low_, high = high_;
    begin = std::min(std::max<int64_t>(low, 0), high);
    end = std::max(begin, std::min(high, size));
    for (int64_t i = 0; i < slots; ++i) held[i] = -1;
  }
  // Numbers from one of the arrays to the next.
  int64_t part() const { return (high - low + step - 1) / step * inner; }

  const A* get(int64_t row) {
    A* out = rows + row % slots * length;
    if (held[row % slots] == row) return out;
    held[row % slots] = row;
    A* whole = step > 1 ? room : out;
    A* inside = whole + (begin - low) * inner;
    A* after = whole + (end - low) * inner;
    std::fill(whole, inside, A(0));
    gather_row(plane + row * s.h + begin * s.w, s.w, s.c, end - begin, inner, inside);
    std::fill(after, whole + (high - low) * inner, A(0));
    if (step > 1) split_row(whole, high - low, inner, step, out, part());
    return out;
  }
};
