// spectral_norm on the GPU: what the host plans and the kernels read; the instantiations.
#pragma once
#include "divider.h"

namespace gk {

constexpr int kSpectralThreads = 256;
constexpr int kSpectralRows = 16;    // of a block in W v, two a warp
constexpr int kSpectralPacks = 16;   // packs of columns of a block in W^T u
constexpr int kSpectralTile = 8192;  // elements of a block elsewhere
constexpr int kSpectralMost = 16;    // weights of a launch

// One weight, contiguous [rows, cols], and the first of its blocks in this launch; u_at, v_at: where its vectors start.
struct SpectralWeight {
  const void *a, *b, *c;  // b, c: null where the kernel takes fewer
  void* out;
  i32 rows, cols, u_at, v_at;
  i32 first, index;  // index: the weight's number in the call
};

// Sums that blocks leave for the next launch lie in `parts`, `stride` for each weight and kind.
struct SpectralParams {
  SpectralWeight weights[kSpectralMost];
  i32 count;
  i32 mode;    // SpectralMode
  i32 stride;  // numbers in a weight's room of parts
  double eps;
  const void *u, *v;  // vectors read
  void *s, *t;        // vectors as computed, not yet divided by their lengths
  void *u_out, *v_out, *sigma;
  void *s_parts, *t_parts;  // squares of s and t; the dots' parts are s_parts, double
};

// What the kernels make of the sums.
enum SpectralMode : i32 {
  kSpectralLastV = 1,    // sigma is the length of W^T u, else of W v
  kSpectralWriteU = 2,   // u = s / |s| is written
  kSpectralWriteV = 4,   // v = t / |t| is written
  kSpectralProduct = 8,  // the parts of s are products u s, which sum to sigma
  kSpectralRaw = 16,     // rows and columns: the vector read is yet to be divided by its length
};

}  // namespace gk

// spectral_rows<T>: s = W v; spectral_columns<T>: t = W^T u; spectral_divide<T>: W / sigma; spectral_dots<T>: the sums
// that derivatives need; spectral_combine<T, kind>: 0 the gradient, 1 and 2 the second derivatives by g and W
#define GK_SPECTRAL_NORM_KERNELS_OF(X, T) \
  X(gk::spectral_rows<T>)                 \
  X(gk::spectral_columns<T>)              \
  X(gk::spectral_divide<T>)               \
  X(gk::spectral_dots<T>)                 \
  X(gk::spectral_combine<T, 0>)           \
  X(gk::spectral_combine<T, 1>)           \
  X(gk::spectral_combine<T, 2>)
#define GK_SPECTRAL_NORM_KERNELS(X)      \
  GK_SPECTRAL_NORM_KERNELS_OF(X, float)  \
  GK_SPECTRAL_NORM_KERNELS_OF(X, double) \
  GK_SPECTRAL_NORM_KERNELS_OF(X, __half) \
  GK_SPECTRAL_NORM_KERNELS_OF(X, __nv_bfloat16)

#ifndef __CUDACC_RTC__
// Numbers that blocks of a weight [rows, cols] leave for the next launch at most: the largest is the `stride` of a
// call.
extern "C" gk::i64 gk_spectral_norm_parts(gk::i64 rows, gk::i64 cols, gk::i64 dtype);

// Lists of `count` numbers: the addresses of the weights' tensors (0 for none), rows and columns.
// what: 0 s = W v, 1 t = W^T u, 2 out = W / sigma. flags: for 0 whether v, for 1 whether u is yet to be divided by its
// length (and for 0 kSpectralProduct); for 2 SpectralMode. Parts [count, stride].
GK_DECLARE_ENTRY(gk_spectral_norm_step, const gk::i64* a, const gk::i64* out, const gk::i64* rows, const gk::i64* cols,
                 gk::i64 count, const void* u, const void* v, void* s, void* t, void* u_out, void* v_out, void* sigma,
                 void* s_parts, void* t_parts, gk::i64 stride, gk::i64 what, gk::i64 flags, double eps, gk::i64 dtype);

// what: 0 to 2 out = the combination of spectral_combine's kind, of a (and b); 3 the dots u^T a v, <a, b>, <b, c>,
// those of absent tensors left out. Parts [count, 3, stride], double.
GK_DECLARE_ENTRY(gk_spectral_norm_derivative, const gk::i64* a, const gk::i64* b, const gk::i64* c, const gk::i64* out,
                 const gk::i64* rows, const gk::i64* cols, gk::i64 count, const void* u, const void* v,
                 const void* sigma, void* parts, gk::i64 stride, gk::i64 what, gk::i64 dtype);
#endif
