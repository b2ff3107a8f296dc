// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "upfirdn2d.cuh"

GK_CUDA_RUNNER(upfirdn2d, GK_UPFIRDN2D_KERNELS)
