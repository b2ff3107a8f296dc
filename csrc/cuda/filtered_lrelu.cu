// nvcc compiles the instantiations here.
#include "filtered_lrelu.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(filtered_lrelu, GK_FILTERED_LRELU_KERNELS)
