// nvcc compiles the instantiations here.
#include "grid_sample2d.cuh"
#include "launch.cuh"

GK_CUDA_RUNNER(grid_sample2d, GK_GRID_SAMPLE2D_KERNELS)
