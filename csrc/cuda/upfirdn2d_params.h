// upfirdn2d on the GPU: what the host plans and the kernels read, and the list of instantiations.
#pragma once
#include "divider.h"
#include "upfirdn2d.h"

namespace gk {

constexpr int kFirThreads = 256;
constexpr int kFirWindow = 52;  // most samples that a thread filters across
constexpr int kFirRows = 36;    // most samples that one filters down
constexpr int kFirTaps = 16;    // taps whose gradients a block sums

// Rows of y of which a thread has a pack in sums at once; a multiple of up. Of upfirdn2d_rows and upfirdn2d_pixels.
GK_HD constexpr int fir_rows_at_once(int pack, int up, bool separable) {
  return up > 2 || (separable && pack == 4) ? 4 : 2;
}
GK_HD constexpr int fir_pixels_at_once(int up) { return up > 2 ? 4 : 2; }

// n / by for n and by below 2^16.
struct SmallDivider {
  u32 by, magic;  // magic is floor(2^32 / by) + 1; 0 where by is 1

#ifndef __CUDACC_RTC__
  static SmallDivider of(i64 by) {
    return {static_cast<u32>(by), by > 1 ? static_cast<u32>((u64(1) << 32) / by + 1) : 0};
  }
#endif
#ifdef GK_DIVIDER_DEVICE
  GK_DIVIDER_DEVICE int quotient(int n) const { return magic ? static_cast<int>(__umulhi(n, magic)) : n; }
#endif
};

// Outputs that one thread makes along an axis, and what they read: with taps shifted so that the first of an aligned
// group of outputs meets its first sample at tap 0, output g of the group meets sample n at tap up * n - g * down.
struct FirTileAxis {
  i32 in, out, taps;
  i32 shift;   // zero taps put before the first, fewer than up
  i32 window;  // samples that a group reads
  i32 first;   // the sample at which tile 0 begins
  i32 step;    // samples from a tile to the next
};

// upfirdn2d_rows sees NCHW as planes of rows, cut in 16-byte packs; upfirdn2d_pixels sees NHWC as images of pixels of
// `channels` packs.
struct FirTileParams {
  const void *x, *f, *fy;  // fy null where f is [KH, KW]
  void* y;
  double gain;
  i64 planes, channels;               // planes: of rows, or images; channels: packs of a pixel, 1 for rows
  Divider tiles_x, tiles_y, tiles_c;  // of the grid, the first innermost
  FirTileAxis h, v;
  i32 flip, float_filter;  // float_filter: the filter is float32, whatever x is
  i32 exact;               // both axes have the most taps that the kernel is for, and no shift
  i32 wide_in, wide_out;   // rows: 16-byte accesses of x, of y are possible
  i32 lanes, lanes_shift;  // rows: packs of output across; pixels: packs of channels
  i32 tile_planes;
  i32 rows, in_rows;                           // of y and of x in a plane of the tile
  i32 groups_shift, plane_groups_shift;        // log2 of groups of rows of y: of the tile, of a plane
  SmallDivider by_groups, by_plane_groups;     // such groups of x, beyond which the last one's window reaches
  i32 in_columns, column_groups;               // pixels: of x, and groups of pixels of y
  i32 packs;                                   // of a row of the tile
  i32 pitch, stride;                           // rows: see offset; pixels: stride between halves of sums
  SmallDivider by_packs, by_width;             // by_width: threads that a row of y takes
  i32 weights_at, raw_at, sums_at, staged_at;  // bytes in shared memory, behind where the rows are
  i32 row_offset[kFirRows];                    // bytes from row 0 of a group's window in the tile to row n
  // Rows: sample n of the window of lane t is offset[n] bytes behind number t of a row of sums, `pitch` numbers a row:
  // samples are dealt out to planes `stride` apart in turn, so that neighbouring lanes read neighbours.
  i32 offset[kFirWindow];
};

struct FirAnyAxis {
  Divider up;
  i64 in, down, taps, pad, bias;  // bias: a multiple of up, at least pad
};

// Any factors, taps and dtype. A pack of channels, or one number, is an item.
struct FirAnyParams {
  const void *x, *f, *fy;
  void* y;
  double gain;
  i64 items;  // of y
  Divider channels, out_width, out_height;
  FirAnyAxis h, v;
  i32 flip, float_filter;
};

struct FirFilterGradParams {
  const void *x, *g;
  double* sums;  // [splits, KH, KW], in correlation order
  i64 items;     // of g
  Divider channels, out_width, out_height, taps_x;
  FirAnyAxis h, v;
};

struct FirFilterSumsParams {
  const double* sums;
  void* out;  // [KH, KW]
  double gain;
  i64 taps, splits;
  i32 flip;
};

}  // namespace gk

// upfirdn2d_rows and upfirdn2d_pixels<T, up, down, most taps, separable>, the same factor and most taps on both axes;
// upfirdn2d_any<T, numbers in an item>, upfirdn2d_filter_grad<T, numbers in an item>, upfirdn2d_filter_sums<T>.
#define GK_UPFIRDN2D_TILES(X, kernel, T) \
  X(gk::kernel<T, 1, 1, 4, true>)        \
  X(gk::kernel<T, 1, 1, 4, false>)       \
  X(gk::kernel<T, 1, 1, 12, true>)       \
  X(gk::kernel<T, 1, 1, 12, false>)      \
  X(gk::kernel<T, 2, 1, 4, true>)        \
  X(gk::kernel<T, 2, 1, 4, false>)       \
  X(gk::kernel<T, 2, 1, 12, true>)       \
  X(gk::kernel<T, 2, 1, 12, false>)      \
  X(gk::kernel<T, 1, 2, 4, true>)        \
  X(gk::kernel<T, 1, 2, 4, false>)       \
  X(gk::kernel<T, 1, 2, 12, true>)       \
  X(gk::kernel<T, 1, 2, 12, false>)      \
  X(gk::kernel<T, 4, 1, 24, true>)       \
  X(gk::kernel<T, 1, 4, 24, true>)
#define GK_UPFIRDN2D_OF(X, T, V)             \
  GK_UPFIRDN2D_TILES(X, upfirdn2d_rows, T)   \
  GK_UPFIRDN2D_TILES(X, upfirdn2d_pixels, T) \
  GK_UPFIRDN2D_ANY(X, T, V)
#define GK_UPFIRDN2D_ANY(X, T, V)    \
  X(gk::upfirdn2d_any<T, 1>)         \
  X(gk::upfirdn2d_any<T, V>)         \
  X(gk::upfirdn2d_filter_grad<T, 1>) \
  X(gk::upfirdn2d_filter_grad<T, V>)
#define GK_UPFIRDN2D_KERNELS(X)        \
  GK_UPFIRDN2D_OF(X, float, 4)         \
  GK_UPFIRDN2D_OF(X, __half, 8)        \
  GK_UPFIRDN2D_OF(X, __nv_bfloat16, 8) \
  GK_UPFIRDN2D_ANY(X, double, 2)       \
  X(gk::upfirdn2d_filter_sums<float>)  \
  X(gk::upfirdn2d_filter_sums<double>)

#ifndef __CUDACC_RTC__
// Parts into which the filter's gradient is summed; the caller gives workspace of [splits, KH, KW] in float64. It
// depends on the shape alone, so the gradient does not depend on the GPU.
extern "C" gk::i64 gk_upfirdn2d_splits(gk::i64 numel, gk::i64 taps);

// Tensors are [planes, H, W, channels] in memory: NCHW has N * C planes of 1 channel, NHWC has N of C.
GK_DECLARE_ENTRY(gk_upfirdn2d_forward, const void* x, const void* f, const void* fy, void* y, gk::i64 planes,
                 gk::i64 channels, gk::i64 height, gk::i64 width, gk::i64 out_height, gk::i64 out_width, gk::i64 taps_y,
                 gk::i64 taps_x, gk::i64 up_x, gk::i64 up_y, gk::i64 down_x, gk::i64 down_y, gk::i64 pad_x,
                 gk::i64 pad_y, gk::i64 flip, double gain, gk::i64 dtype, gk::i64 filter_dtype);
GK_DECLARE_ENTRY(gk_upfirdn2d_filter_grad, const void* x, const void* g, void* out, void* workspace, gk::i64 planes,
                 gk::i64 channels, gk::i64 height, gk::i64 width, gk::i64 out_height, gk::i64 out_width, gk::i64 taps_y,
                 gk::i64 taps_x, gk::i64 up_x, gk::i64 up_y, gk::i64 down_x, gk::i64 down_y, gk::i64 pad_x,
                 gk::i64 pad_y, gk::i64 flip, double gain, gk::i64 dtype);
#endif
