// Included by foreach_isa.h in each instruction set's namespace: sums over a piece of a sample, and scalings of one.

constexpr int64_t kPerSampleBlock = 1024;

template <class C>
inline double dot_block(const C* a, const C* b, int64_t n) {
  C lane[32] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 32; ++j) lane[j] += a[i + j] * b[i + j];
  for (int j = 0; i < n; ++i, ++j) lane[j] += a[i] * b[i];
  double total = 0;
  for (int j = 0; j < 32; ++j) total += lane[j];
  return total;
}

// The sum of a[i] * b[i]; a block in lanes of C, the blocks in double.
template <class C, class T>
double dot_piece(const T* a, const T* b, int64_t n) {
  C buffer[2][kPerSampleBlock];
  double total = 0;
  for (int64_t i = 0; i < n; i += kPerSampleBlock) {
    const int64_t length = n - i < kPerSampleBlock ? n - i : kPerSampleBlock;
    const C* left = as_acc(a + i, buffer[0], length);
    const C* right = a == b ? left : as_acc(b + i, buffer[1], length);
    total += dot_block(left, right, length);
  }
  return total;
}

// out = p * a, or p * a + q * b.
template <class T, class C>
void combine_piece(const T* a, C p, const T* b, C q, T* out, int64_t n) {
  C buffer[3][kPerSampleBlock];
  for (int64_t i = 0; i < n; i += kPerSampleBlock) {
    const int64_t length = n - i < kPerSampleBlock ? n - i : kPerSampleBlock;
    const C* __restrict left = as_acc(a + i, buffer[0], length);
    C* __restrict to = buffer[2];
    if constexpr (std::is_same_v<T, C>) to = out + i;
    if (b) {
      const C* __restrict right = as_acc(b + i, buffer[1], length);
      for (int64_t j = 0; j < length; ++j) to[j] = p * left[j] + q * right[j];
    } else {
      for (int64_t j = 0; j < length; ++j) to[j] = p * left[j];
    }
    if constexpr (!std::is_same_v<T, C>) store_block(to, out + i, length);
  }
}
