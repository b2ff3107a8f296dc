// upfirdn2d's kernels. Those for common factors take one launch and one pass with the tile of x in shared memory: a
// separable filter runs down the columns of the tile first, then across; any other takes rows and columns at once.
#pragma once
#include "upfirdn2d_any.cuh"
#include "upfirdn2d_pixels.cuh"
#include "upfirdn2d_rows.cuh"
