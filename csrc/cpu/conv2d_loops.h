// The direct convolution's inner loops, compiled once for each instruction set by foreach_isa.h.
// A sum over channels and taps of weight * source, the source read at an offset for each tap: what a convolution, and
// each phase of a strided transposed one, comes to once the source is padded and split by the stride. Vectors run along
// the image's rows, so no layout but the caller's is ever written.

typedef float Vec __attribute__((vector_size(GK_VECTOR_BYTES)));
typedef float LooseVec __attribute__((vector_size(GK_VECTOR_BYTES), aligned(4), may_alias));

constexpr long kLanes = GK_VECTOR_BYTES / 4;
constexpr int kSums = GK_VECTOR_BYTES == 64 ? 24 : 12;  // accumulators that leave registers for the operands

// out[b][i] = sum over channels c and taps t of weight[c][t][b] * source[c * plane + offset[t] + i], for 0 <= i < count
// (rounded up to whole steps: source and out have that slack). `pitch` is the distance between out's rows.
template <int B>
inline __attribute__((always_inline)) void conv_block(const float* source, const float* weight, const long* offset,
                                                      long channels, long taps, long plane, long count, float* out,
                                                      long pitch) {
  constexpr int X = kSums / B < 8 ? kSums / B : 8;
  for (long i = 0; i < count; i += X * kLanes) {
    Vec sum[B][X];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
#pragma GCC unroll 8
      for (int v = 0; v < X; ++v) sum[b][v] = Vec{};
    const float* w = weight;
    for (long c = 0; c < channels; ++c)
      for (long t = 0; t < taps; ++t, w += B) {
        const float* p = source + c * plane + offset[t] + i;
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
      for (int v = 0; v < X; ++v) *(LooseVec*)(out + b * pitch + i + v * kLanes) = sum[b][v];
  }
}

inline void conv_rows(int block, const float* source, const float* weight, const long* offset, long channels, long taps,
                      long plane, long count, float* out, long pitch) {
  switch (block) {
    case 1:
      return conv_block<1>(source, weight, offset, channels, taps, plane, count, out, pitch);
    case 2:
      return conv_block<2>(source, weight, offset, channels, taps, plane, count, out, pitch);
    case 3:
      return conv_block<3>(source, weight, offset, channels, taps, plane, count, out, pitch);
    case 4:
      return conv_block<4>(source, weight, offset, channels, taps, plane, count, out, pitch);
    case 5:
      return conv_block<5>(source, weight, offset, channels, taps, plane, count, out, pitch);
    default:
      return conv_block<6>(source, weight, offset, channels, taps, plane, count, out, pitch);
  }
}

// out[q * step] = in[q] + bias
inline void conv_store(const float* __restrict in, float bias, long count, long step, float* __restrict out) {
  if (step == 1) {
    for (long q = 0; q < count; ++q) out[q] = in[q] + bias;
  } else {
    for (long q = 0; q < count; ++q) out[q * step] = in[q] + bias;
  }
}

// out[2 q] = a[q] + bias, out[2 q + 1] = b[q] + bias: two phases of an upsampled row woven together.
inline void conv_weave(const float* __restrict a, const float* __restrict b, float bias, long count,
                       float* __restrict out) {
  for (long q = 0; q < count; ++q) {
    out[2 * q] = a[q] + bias;
    out[2 * q + 1] = b[q] + bias;
  }
}

// out[q] = in[q * step], for the phases of a row that a strided convolution reads.
inline void conv_gather(const float* __restrict in, long count, long step, float* __restrict out) {
  if (step == 1) {
    for (long q = 0; q < count; ++q) out[q] = in[q];
  } else if (step == 2) {
    for (long q = 0; q < count; ++q) out[q] = in[2 * q];
  } else {
    for (long q = 0; q < count; ++q) out[q] = in[q * step];
  }
}
