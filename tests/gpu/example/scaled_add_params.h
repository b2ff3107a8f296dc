// What the host plans and the kernels read: the params structs and the list of instantiations.
#pragma once
#include "launch.h"

namespace gk {

struct ScaledAddParams {
  const void* x;
  const void* y;
  void* out;
  i64 size;  // elements
  float scale;
};

struct RowSumParams {
  const void* x;
  float* out;   // [rows]
  i64 columns;  // elements a row
  i64 stride;   // elements between rows
};

}  // namespace gk

#define GK_SCALED_ADD_KERNELS(X)      \
  X(gk::scaled_add<float, 4>)         \
  X(gk::scaled_add<float, 1>)         \
  X(gk::scaled_add<__half, 8>)        \
  X(gk::scaled_add<__half, 1>)        \
  X(gk::scaled_add<__nv_bfloat16, 8>) \
  X(gk::scaled_add<__nv_bfloat16, 1>) \
  X(gk::row_sum<float, 256>)          \
  X(gk::row_sum<__half, 256>)         \
  X(gk::row_sum<__nv_bfloat16, 256>)

// Only a caller in C++ needs these; the entries themselves are in scaled_add_entries.cpp.
#ifndef __CUDACC_RTC__
GK_DECLARE_ENTRY(gk_scaled_add_forward, const void* x, const void* y, void* out, gk::i64 size, gk::i64 dtype,
                 double scale);
GK_DECLARE_ENTRY(gk_scaled_add_row_sum, const void* x, void* out, gk::i64 rows, gk::i64 columns, gk::i64 stride,
                 gk::i64 dtype);
#endif
