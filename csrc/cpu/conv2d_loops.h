// The direct convolution's inner loops, compiled once for each instruction set by foreach_isa.h.
// A sum over channels and taps of weight * source, the source read at an offset for each: what a convolution, and each
// phase of a strided transposed one, comes to once the source is padded and split by the stride. Vectors run along the
// image's rows, so no layout but the caller's is ever written. Channels and taps are one loop over a list of offsets:
// as two, the inner one's few turns cost a quarter of the time in mispredicted exits.

typedef float Vec __attribute__((vector_size(GK_VECTOR_BYTES)));
typedef float LooseVec __attribute__((vector_size(GK_VECTOR_BYTES), aligned(4), may_alias));

constexpr int64_t kLanes = GK_VECTOR_BYTES / 4;
constexpr int kSums = GK_VECTOR_BYTES == 64 ? 24 : 12;  // accumulators that leave registers for the operands

// out[b][i] = sum over terms t of weight[t][b] * source[offset[t] + i], for the X vectors of i from 0. `pitch` is the
// distance between out's rows.
template <int B, int X>
inline __attribute__((always_inline)) void conv_strip(const float* source, const float* w, const int64_t* offset,
                                                      int64_t terms, float* out, int64_t pitch) {
  Vec sum[B][X];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
    for (int v = 0; v < X; ++v) sum[b][v] = Vec{};
  for (int64_t t = 0; t < terms; ++t, w += B) {
    const float* p = source + offset[t];
    Vec x[X];
#pragma GCC unroll 8
    for (int v = 0; v < X; ++v) x[v] = *(const LooseVec*)(p + v * kLanes);
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
      for (int v = 0; v < X; ++v) sum[b][v] += w[b] * x[v];
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
    for (int v = 0; v < X; ++v) *(LooseVec*)(out + b * pitch + v * kLanes) = sum[b][v];
}

// The same for 0 <= i < count, rounded up to whole vectors: source and out have that slack.
template <int B>
inline void conv_block(const float* source, const float* weight, const int64_t* offset, int64_t terms, int64_t count,
                       float* out, int64_t pitch) {
  constexpr int X = kSums / B < 8 ? kSums / B : 8;
  int64_t i = 0;
  for (; i + (X - 1) * kLanes < count; i += X * kLanes)
    conv_strip<B, X>(source + i, weight, offset, terms, out + i, pitch);
  if constexpr (X > 3)
    for (; i + kLanes < count; i += 2 * kLanes) conv_strip<B, 2>(source + i, weight, offset, terms, out + i, pitch);
  for (; i < count; i += kLanes) conv_strip<B, 1>(source + i, weight, offset, terms, out + i, pitch);
}

inline void conv_rows(int block, const float* source, const float* weight, const int64_t* offset, int64_t terms,
                      int64_t count, float* out, int64_t pitch) {
  switch (block) {
    case 1:
      return conv_block<1>(source, weight, offset, terms, count, out, pitch);
    case 2:
      return conv_block<2>(source, weight, offset, terms, count, out, pitch);
    case 3:
      return conv_block<3>(source, weight, offset, terms, count, out, pitch);
    case 4:
      return conv_block<4>(source, weight, offset, terms, count, out, pitch);
    case 5:
      return conv_block<5>(source, weight, offset, terms, count, out, pitch);
    default:
      return conv_block<6>(source, weight, offset, terms, count, out, pitch);
  }
}

template <int kStep>
inline __attribute__((always_inline)) void conv_gather(const float* __restrict from, const ConvPlane& p, int64_t left,
                                                       float* __restrict to) {
  const int64_t step = kStep ? kStep : p.step;
  for (int64_t r = 0; r < p.rows; ++r, from += p.row_step * p.width) {
    for (int64_t q = 0; q < left; ++q) *to++ = 0;
    for (int64_t q = 0; q < p.count; ++q) to[q] = from[q * step];
    to += p.count;
    for (int64_t q = left + p.count; q < p.pitch; ++q) *to++ = 0;
  }
}

// The image's samples into the scratch, whose rows start with `left` zeros and end with zeros.
inline void conv_read(const float* from, const ConvPlane& p, int64_t left, float* to) {
  if (p.step == 1) return conv_gather<1>(from, p, left, to);
  if (p.step == 2) return conv_gather<2>(from, p, left, to);
  conv_gather<0>(from, p, left, to);
}

// The scratch's sums, plus bias, into the image.
inline void conv_write(const float* __restrict from, float bias, const ConvPlane& p, float* __restrict to) {
  for (int64_t r = 0; r < p.rows; ++r) {
    const float* in = from + r * p.pitch;
    float* out = to + r * p.row_step * p.width;
    if (p.step == 1)
      for (int64_t q = 0; q < p.count; ++q) out[q] = in[q] + bias;
    else
      for (int64_t q = 0; q < p.count; ++q) out[q * p.step] = in[q] + bias;
  }
}

// Two phases of upsampled rows woven together: sample 2 q of the image from `even`, 2 q + 1 from `odd`.
inline void conv_weave(const float* __restrict even, const float* __restrict odd, float bias, const ConvPlane& p,
                       float* __restrict to) {
  for (int64_t r = 0; r < p.rows; ++r) {
    const float *a = even + r * p.pitch, *b = odd + r * p.pitch;
    float* out = to + r * p.row_step * p.width;
    for (int64_t q = 0; q < p.count / 2; ++q) {
      out[2 * q] = a[q] + bias;
      out[2 * q + 1] = b[q] + bias;
    }
    if (p.count % 2 != 0) out[p.count - 1] = a[p.count / 2] + bias;
  }
}
