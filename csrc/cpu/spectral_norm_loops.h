// Included by foreach_isa.h in each instruction set's namespace: rows of a matrix against vectors.
#include "cpu/per_sample_loops.h"

constexpr int64_t kSpectralBlock = 1024;

// The sum of a[i] * b[i]; a block in lanes of C, the blocks in double.
template <class C, class A, class B>
double dot_row(const A* a, const B* b, int64_t n) {
  C buffer[2][kSpectralBlock];
  double total = 0;
  for (int64_t i = 0; i < n; i += kSpectralBlock) {
    const int64_t length = n - i < kSpectralBlock ? n - i : kSpectralBlock;
    total += dot_block(as_acc(a + i, buffer[0], length), as_acc(b + i, buffer[1], length), length);
  }
  return total;
}

// s = W v, and while a row is in cache t += s[r] * row: one reading of W for both. Without v it is t += u[r] * row.
template <class T, class C>
void power_rows(const T* w, int64_t rows, int64_t cols, const C* v, const C* u, C* s, C* t) {
  C buffer[kSpectralBlock];
  for (int64_t r = 0; r < rows; ++r, w += cols) {
    C along = u ? u[r] : C(0);
    if (v) along = s[r] = C(dot_row<C>(w, v, cols));
    if (!t) continue;
    for (int64_t i = 0; i < cols; i += kSpectralBlock) {
      const int64_t length = cols - i < kSpectralBlock ? cols - i : kSpectralBlock;
      const C* __restrict row = as_acc(w + i, buffer, length);
      C* __restrict to = t + i;
      for (int64_t j = 0; j < length; ++j) to[j] += along * row[j];
    }
  }
}

// out = p x + q y + u[r] v, where y and v may be null.
template <class T, class C>
void combine_rows(const T* x, C p, const T* y, C q, const C* u, C factor, const C* v, T* out, int64_t rows,
                  int64_t cols) {
  C buffer[3][kSpectralBlock];
  for (int64_t r = 0; r < rows; ++r) {
    const C along = v ? factor * u[r] : C(0);
    for (int64_t i = 0; i < cols; i += kSpectralBlock) {
      const int64_t length = cols - i < kSpectralBlock ? cols - i : kSpectralBlock, at = r * cols + i;
      const C* __restrict left = as_acc(x + at, buffer[0], length);
      C* __restrict to = buffer[2];
      if constexpr (std::is_same_v<T, C>) to = out + at;
      if (y) {
        const C* __restrict right = as_acc(y + at, buffer[1], length);
        for (int64_t j = 0; j < length; ++j) to[j] = p * left[j] + q * right[j];
      } else if (v) {
        for (int64_t j = 0; j < length; ++j) to[j] = p * left[j] + along * v[i + j];
      } else {
        for (int64_t j = 0; j < length; ++j) to[j] = p * left[j];
      }
      if constexpr (!std::is_same_v<T, C>) store_block(to, out + at, length);
    }
  }
}
