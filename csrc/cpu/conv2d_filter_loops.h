// One row of conv_transpose2d_filter, compiled once for each instruction set by foreach_isa.h.
#include "cpu/fir_vectors.h"

// The filtered row of `count` rows of a convolution, whose taps are cy. l.sum is zero outside the row.
inline void filter_line(const FilterLine& l, int64_t count, const float* cy, const float* const* rows,
                        const float* scale, float* __restrict out) {
  weighted_sum(l.sum + l.left, l.width, count, cy, rows, 0);
  weighted_sum(out, l.n, l.taps, l.cx, l.across, 0);
  if (scale != nullptr) {
    const float by = *scale;
    for (int64_t j = 0; j < l.n; ++j) out[j] *= by;
  }
}
