// Included by foreach_isa.h in each instruction set's namespace: rows of images as the FIR loops want them.

// Four numbers, in the image's type in memory and in the accumulation type in a register.
template <class A>
struct Quad {
  typedef A type __attribute__((vector_size(4 * sizeof(A))));
};

inline Quad<double>::type load_four(const double* x) {
  Quad<double>::type v;
  memcpy(&v, x, sizeof v);
  return v;
}
inline Quad<float>::type load_four(const float* x) {
  Quad<float>::type v;
  memcpy(&v, x, sizeof v);
  return v;
}
inline void store_four(Quad<double>::type v, double* out) { memcpy(out, &v, sizeof v); }
inline void store_four(Quad<float>::type v, float* out) { memcpy(out, &v, sizeof v); }

typedef uint16_t FourBits __attribute__((vector_size(8)));
typedef uint32_t FourWide __attribute__((vector_size(16)));

inline Quad<float>::type load_four(const c10::BFloat16* x) {
  FourBits bits;
  memcpy(&bits, x, sizeof bits);
  return (Quad<float>::type)(__builtin_convertvector(bits, FourWide) << 16);
}
inline void store_four(Quad<float>::type v, c10::BFloat16* out) {  // to nearest even; a NaN stays one
  const FourWide w = (FourWide)v, rounded = (w + 0x7FFF + ((w >> 16) & 1)) >> 16;
  const FourWide chosen = (w & 0x7FFFFFFF) > 0x7F800000 ? (FourWide{} + 0x7FC0) : rounded;
  const FourBits bits = __builtin_convertvector(chosen, FourBits);
  memcpy(out, &bits, sizeof bits);
}
inline Quad<float>::type load_four(const c10::Half* x) {
#if GK_X86_TARGETS && GK_VECTOR_BYTES >= 32
  return (Quad<float>::type)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
#else
  return Quad<float>::type{x[0], x[1], x[2], x[3]};
#endif
}
inline void store_four(Quad<float>::type v, c10::Half* out) {
#if GK_X86_TARGETS && GK_VECTOR_BYTES >= 32
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_cvtps_ph((__m128)v, 0));
#else
  for (int k = 0; k < 4; ++k) out[k] = c10::Half(v[k]);
#endif
}

// A 4x4 block turned: rows x_step apart become columns, rows out_step apart.
template <class From, class To>
inline void turn_block(const From* x, int64_t x_step, To* out, int64_t out_step) {
  const auto r0 = load_four(x), r1 = load_four(x + x_step);
  const auto r2 = load_four(x + 2 * x_step), r3 = load_four(x + 3 * x_step);
  const auto low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
  const auto high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  store_four(__builtin_shufflevector(low01, low23, 0, 1, 4, 5), out);
  store_four(__builtin_shufflevector(low01, low23, 2, 3, 6, 7), out + out_step);
  store_four(__builtin_shufflevector(high01, high23, 0, 1, 4, 5), out + 2 * out_step);
  store_four(__builtin_shufflevector(high01, high23, 2, 3, 6, 7), out + 3 * out_step);
}

// [rows, columns], rows x_step apart, to [columns, rows], rows out_step apart. The image's side, whose rows are the
// further apart, is gone through row by row, so that its cache lines are met once.
template <class From, class To>
void turn(const From* x, int64_t x_step, To* out, int64_t out_step, int64_t rows, int64_t columns) {
  const auto block = [&](int64_t r, int64_t c) {
    const From* from = x + r * x_step + c;
    To* to = out + c * out_step + r;
    if (r + 4 <= rows && c + 4 <= columns) return turn_block(from, x_step, to, out_step);
    for (int64_t i = 0; i < std::min<int64_t>(4, rows - r); ++i)
      for (int64_t j = 0; j < std::min<int64_t>(4, columns - c); ++j) to[j * out_step + i] = To(from[i * x_step + j]);
  };
  if (x_step >= out_step) {
    for (int64_t r = 0; r < rows; r += 4)
      for (int64_t c = 0; c < columns; c += 4) block(r, c);
  } else {
    for (int64_t c = 0; c < columns; c += 4)
      for (int64_t r = 0; r < rows; r += 4) block(r, c);
  }
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
  } else if (step == 1) {
    turn(x, channel_step, out, inner, inner, pixels);
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
  } else if (step == 1) {
    turn(x, inner, out, channel_step, pixels, inner);
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
  const A* bias = nullptr;  // [inner], added inside the image

  void start(int64_t low_, int64_t high_, int64_t size) {
    low = low_, high = high_;
    begin = std::min(std::max<int64_t>(low, 0), high);
    end = std::max(begin, std::min(high, size));
    for (int64_t i = 0; i < slots; ++i) held[i] = -1;
  }
  // Numbers from one of the arrays to the next.
  int64_t part() const { return (high - low + step - 1) / step * inner; }

  void add_bias(A* pixel, int64_t pixels) const {
    if (inner == 1) {
      const A b = *bias;
      for (int64_t i = 0; i < pixels; ++i) pixel[i] += b;
    } else {
      for (const A* last = pixel + pixels * inner; pixel < last; pixel += inner)
        for (int64_t c = 0; c < inner; ++c) pixel[c] += bias[c];
    }
  }

  const A* get(int64_t row) {
    A* out = rows + row % slots * length;
    if (held[row % slots] == row) return out;
    held[row % slots] = row;
    A* whole = step > 1 ? room : out;
    A* inside = whole + (begin - low) * inner;
    A* after = whole + (end - low) * inner;
    std::fill(whole, inside, A(0));
    gather_row(plane + row * s.h + begin * s.w, s.w, s.c, end - begin, inner, inside);
    if (bias != nullptr) add_bias(inside, end - begin);
    std::fill(after, whole + (high - low) * inner, A(0));
    if (step > 1) split_row(whole, high - low, inner, step, out, part());
    return out;
  }
};
