// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "per_sample.cuh"

GK_CUDA_RUNNER(per_sample, GK_PER_SAMPLE_KERNELS)
