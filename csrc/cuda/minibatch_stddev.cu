// nvcc compiles the instantiations here.
#include "launch.cuh"
#include "minibatch_stddev.cuh"

GK_CUDA_RUNNER(minibatch_stddev, GK_MINIBATCH_STDDEV_KERNELS)
