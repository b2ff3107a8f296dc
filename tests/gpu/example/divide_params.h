// n / by and n % by of each n, through gk::Divider.
#pragma once
#include "divider.h"

namespace gk {

struct DivideParams {
  const i64 *n;
  i64 *quotient, *remainder;
  i64 size;
  Divider by;
};

} // namespace gk

#define GK_DIVIDE_KERNELS(X) X(gk::divide<256>)
