// filtered_lrelu's kernels: bias, upsampling, activation and downsampling in one launch, on tiles in shared memory.
#pragma once
#include "filtered_lrelu_any.cuh"
#include "filtered_lrelu_march.cuh"
