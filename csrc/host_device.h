// GK_HD marks arithmetic that the CPU loops, nvcc and NVRTC all compile.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GK_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define GK_HD inline __attribute__((always_inline))
#else
#define GK_HD inline
#endif
