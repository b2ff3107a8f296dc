// Runs a gk::Launch through the CUDA runtime. For .cu files only.
#pragma once
#include <cuda_runtime.h>

#include "launch.h"

namespace gk {

struct Kernel {
  const char* name;
  const void* function;
};

inline const char* run_cuda(const Kernel* kernels, const Launcher* self, const Launch* launch) {
  if (!launch->grid[0] || !launch->grid[1] || !launch->grid[2]) return nullptr;
  for (const Kernel* kernel = kernels; kernel->name; ++kernel) {
    if (strcmp(kernel->name, launch->kernel) != 0) continue;
    if (launch->shared_bytes > 48 * 1024) {
      cudaError_t error = cudaFuncSetAttribute(kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(launch->shared_bytes));
      if (error != cudaSuccess) return fail("%s: %s", launch->kernel, cudaGetErrorString(error));
    }
    alignas(16) unsigned char params[sizeof launch->params];
    memcpy(params, launch->params, launch->params_bytes);
    void* args[] = {params};
    const u32* g = launch->grid;
    const u32* b = launch->block;
    cudaError_t error = cudaLaunchKernel(kernel->function, dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), args,
                                         launch->shared_bytes, static_cast<cudaStream_t>(self->stream));
    return error == cudaSuccess ? nullptr : fail("%s: %s", launch->kernel, cudaGetErrorString(error));
  }
  return fail("no kernel named `%s` was compiled in; add it to the operator's kernel list", launch->kernel);
}

// Exports `gk_<op>_run`, the Launcher::run of an operator: GK_CUDA_RUNNER(scaled_add, GK_SCALED_ADD_KERNELS)
#define GK_KERNEL_POINTER(...) {#__VA_ARGS__, reinterpret_cast<const void*>(&__VA_ARGS__)},
#define GK_CUDA_RUNNER(op, LIST)                                                             \
  extern "C" const char* gk_##op##_run(const gk::Launcher* self, const gk::Launch* launch) { \
    static const gk::Kernel kernels[] = {LIST(GK_KERNEL_POINTER){nullptr, nullptr}};         \
    return gk::run_cuda(kernels, self, launch);                                              \
  }

}  // namespace gk
