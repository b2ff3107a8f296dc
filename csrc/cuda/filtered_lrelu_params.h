// filtered_lrelu on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "upfirdn2d_params.h"

namespace gk {

constexpr int kFilteredPhase = 6;         // taps of a phase of the filters that filtered_lrelu_tile is for
constexpr int kFilteredThreads = 128;     // of filtered_lrelu_tile
constexpr int kFilteredAnyThreads = 256;  // of the others
constexpr int kFilteredLanes = 8;         // most channels of a tile of NHWC: four columns of them fill a warp

// Bits of a sample of the upsampled image, and what a pass does with them. Byte k of a row holds samples 4 k to 4 k + 3
// from its low bits up; rows lie in [N, C, rows, bytes], or [N, rows, bytes, C] for channels_last.
enum FilteredBits : i32 { kNoBits = 0, kWriteBits = 1, kReadBits = 2 };

// An axis: `in` samples of x become `middle` of the upsampled image and `out` of y. A tile makes `step` outputs of
// `middles` samples of the upsampled image, the first `lead` of them for the sake of whole bytes only, of `samples` of
// x. `groups` samples of x are the first that some sample of the upsampled image meets.
struct FilteredAxis {
  i32 in, middle, out, up, down, taps_up, taps_down, pad_up, pad_down;
  i32 step, lead, middles, groups, samples;
  SmallDivider by_up, by_down;
};

// NCHW is planes of one channel, NHWC images of `channels`.
struct FilteredParams {
  const void *x, *bias, *fu, *fuy, *fd, *fdy;  // fuy, fdy null where the filter is [KH, KW]
  void *y, *sums;                              // or null; sums are [N, C, parts]
  unsigned char* bits;
  double up_gain, above, below, bound;  // above, below: what either side of zero is multiplied by; bound: the clamp
  float above_float, below_float, bound_float;
  i64 planes, channels, bit_bytes, parts;  // bit_bytes: of a row
  Divider features;                        // C where the channel is the plane's, 1 else
  Divider tiles_x, tiles_y, tiles_c;       // of the grid, the first innermost
  FilteredAxis h, v;
  i32 flip, float_up, float_down, mode;
  i32 lanes, lanes_shift;          // channels of a tile, a power of two
  i32 filter_at, near_at, far_at;  // bytes in shared memory: down's filter, and two regions behind it
  // Numbers from a row, a channel, a phase to the next: of x, filtered across, of the upsampled image.
  i32 x_pitch, a_pitch, u_pitch, x_lane, a_lane, u_lane, a_part, u_part;
  SmallDivider by_x_row, by_a_row, by_middles, by_out;
};

}  // namespace gk

// filtered_lrelu_tile<T, up, down, tap that the first row of a tile meets first>; filtered_lrelu_any<T> for other
// factors and filters, filtered_lrelu_direct<T> for filters whose tiles shared memory does not hold.
#define GK_FILTERED_LRELU_TILES(X, T)    \
  X(gk::filtered_lrelu_tile<T, 2, 2, 0>) \
  X(gk::filtered_lrelu_tile<T, 2, 2, 1>) \
  X(gk::filtered_lrelu_tile<T, 2, 4, 0>) \
  X(gk::filtered_lrelu_tile<T, 2, 4, 1>) \
  X(gk::filtered_lrelu_tile<T, 4, 2, 0>) \
  X(gk::filtered_lrelu_tile<T, 4, 2, 1>) \
  X(gk::filtered_lrelu_tile<T, 4, 2, 2>) \
  X(gk::filtered_lrelu_tile<T, 4, 2, 3>) \
  X(gk::filtered_lrelu_tile<T, 4, 4, 0>) \
  X(gk::filtered_lrelu_tile<T, 4, 4, 1>) \
  X(gk::filtered_lrelu_tile<T, 4, 4, 2>) \
  X(gk::filtered_lrelu_tile<T, 4, 4, 3>)
#define GK_FILTERED_LRELU_OF(X, T) \
  X(gk::filtered_lrelu_any<T>)     \
  X(gk::filtered_lrelu_direct<T>)
#define GK_FILTERED_LRELU_KERNELS(X)        \
  GK_FILTERED_LRELU_TILES(X, float)         \
  GK_FILTERED_LRELU_TILES(X, __half)        \
  GK_FILTERED_LRELU_TILES(X, __nv_bfloat16) \
  GK_FILTERED_LRELU_OF(X, float)            \
  GK_FILTERED_LRELU_OF(X, __half)           \
  GK_FILTERED_LRELU_OF(X, __nv_bfloat16)    \
  GK_FILTERED_LRELU_OF(X, double)

#ifndef __CUDACC_RTC__
// x is [N, C, H, W], dense in NCHW or, where channels_last, in NHWC. `h` and `v` are an axis each: in, middle, out, up,
// down, taps of fu, of fd, padding before x, before the upsampled image. y and sums may be null; sums are
// [N, C, parts], float64 for a float64 x and float32 else.
extern "C" gk::i64 gk_filtered_lrelu_parts(gk::i64 n, gk::i64 features, gk::i64 channels_last, const gk::i64* h,
                                           const gk::i64* v, gk::i64 separable_up, gk::i64 separable_down,
                                           gk::i64 dtype);
GK_DECLARE_ENTRY(gk_filtered_lrelu, const void* x, const void* bias, const void* fu, const void* fuy, const void* fd,
                 const void* fdy, void* y, void* bits, void* sums, gk::i64 n, gk::i64 features, gk::i64 channels_last,
                 const gk::i64* h, const gk::i64* v, gk::i64 flip, gk::i64 mode, double up_gain, double gain,
                 double slope, double bound, gk::i64 dtype, gk::i64 up_dtype, gk::i64 down_dtype);
#endif
