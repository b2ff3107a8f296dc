#pragma once
#include "divide_params.h"

namespace gk {

template <int Threads>
__global__ void divide(const __grid_constant__ DivideParams p) {
  const i64 i = static_cast<i64>(blockIdx.x) * Threads + threadIdx.x;
  if (i >= p.size)
    return;
  p.quotient[i] = p.by.quotient(p.n[i]);
  p.remainder[i] = p.by.remainder(p.n[i]);
}

} // namespace gk
