// Included by foreach_isa.h in each instruction set's namespace: rows of images as the FIR loops want them.

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
  } else {
    for (int64_t c = 0; c < inner; ++c)
      for (int64_t i = 0; i < pixels; ++i) out[i * inner + c] = A(x[i * step + c * channel_step]);
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
  } else {
    for (int64_t c = 0; c < inner; ++c)
      for (int64_t i = 0; i < pixels; ++i) out[i * step + c * channel_step] = T(x[i * inner + c]);
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
