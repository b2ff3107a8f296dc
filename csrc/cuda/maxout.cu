// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "maxout.cuh"

GK_CUDA_RUNNER(maxout, GK_MAXOUT_KERNELS)
