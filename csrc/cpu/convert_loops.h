// Included by foreach_isa.h in each instruction set's namespace: blocks of 16-bit numbers to and from float.

inline void load_block(const float* x, float* out, int64_t n) { memcpy(out, x, n * sizeof(float)); }
inline void load_block(const double* x, double* out, int64_t n) { memcpy(out, x, n * sizeof(double)); }
inline void store_block(const float* x, float* out, int64_t n) { memcpy(out, x, n * sizeof(float)); }
inline void store_block(const double* x, double* out, int64_t n) { memcpy(out, x, n * sizeof(double)); }

inline void load_block(const c10::BFloat16* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t wide = uint32_t(x[i].x) << 16;
    memcpy(out + i, &wide, 4);
  }
}

inline void store_block(const float* x, c10::BFloat16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {  // round to nearest even; a NaN stays one
    uint32_t w;
    memcpy(&w, x + i, 4);
    const uint32_t rounded = (w + 0x7FFF + ((w >> 16) & 1)) >> 16;
    out[i].x = uint16_t((w & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
  }
}

inline void load_block(const c10::Half* x, float* out, int64_t n) {
  int64_t i = 0;
#if GK_X86_TARGETS && GK_VECTOR_BYTES >= 32
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
#endif
  for (; i < n; ++i) out[i] = static_cast<float>(x[i]);
}

inline void store_block(const float* x, c10::Half* out, int64_t n) {
  int64_t i = 0;
#if GK_X86_TARGETS && GK_VECTOR_BYTES >= 32
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), 0));
#endif
  for (; i < n; ++i) out[i] = c10::Half(x[i]);
}

// The block as accumulation-type numbers: x itself where nothing needs converting, else `buffer` filled.
template <class T, class acc_t>
inline const acc_t* as_acc(const T* x, acc_t* buffer, int64_t n) {
  if constexpr (std::is_same_v<T, acc_t>) {
    return x;
  } else {
    load_block(x, buffer, n);
    return buffer;
  }
}

// Sum of a block in independent lanes, so that it vectorises; `n` is at most a few thousand.
template <class acc_t>
inline double sum_block(const acc_t* x, int64_t n) {
  acc_t lane[32] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 32; ++j) lane[j] += x[i + j];
  for (int j = 0; i < n; ++i, ++j) lane[j] += x[i];
  double total = 0;
  for (int j = 0; j < 32; ++j) total += lane[j];
  return total;
}
