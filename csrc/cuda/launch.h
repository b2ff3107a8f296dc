// What one kernel launch is. Seen by nvcc, by NVRTC and by a plain host compiler: no CUDA header, and no standard
// header under NVRTC.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <type_traits>
#endif

namespace gk {

// NVRTC has no <cstdint>; entries and params structs use these names only.
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

// The number that stands for a dtype in every entry.
enum Dtype : i64 { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

#ifndef __CUDACC_RTC__

// The one kernel argument is a params struct by value; its bytes travel here.
struct Launch {
  char kernel[256];  // the instantiation, spelled as in the operator's kernel list
  u32 grid[3];       // a zero means that there is nothing to do
  u32 block[3];      // threads
  u32 shared_bytes;  // dynamic shared memory
  u32 params_bytes;
  alignas(16) unsigned char params[1024];
};

// Who runs a launch: the CUDA runtime in the extension, CuPy, or a test. `run` returns nullptr or what went wrong.
// gankernels/_launch.py mirrors this and Launch.
struct Launcher {
  const char* (*run)(const Launcher* self, const Launch* launch);
  void* stream;
  const char* op;  // the stem of the operator's sources
  i64 device;      // the number of the GPU
};
using RunLaunch = decltype(Launcher::run);

// Formats an error for an entry to return. Valid until the next failure on this thread.
__attribute__((format(printf, 1, 2))) inline const char* fail(const char* format, ...) {
  static thread_local char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return message;
}

// The C++ name of a dtype as kernel lists spell it; nullptr when the number is unknown.
inline const char* type_name(i64 dtype) {
  switch (dtype) {
    case kFloat32:
      return "float";
    case kFloat64:
      return "double";
    case kFloat16:
      return "__half";
    case kBFloat16:
      return "__nv_bfloat16";
    default:
      return nullptr;
  }
}

inline i64 type_bytes(i64 dtype) { return dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2; }

inline bool aligned(const void* pointer, i64 bytes) { return reinterpret_cast<u64>(pointer) % bytes == 0; }

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

template <class Params>
Launch launch_of(const Params& params, u32 grid, u32 block, u32 shared_bytes = 0) {
  static_assert(std::is_trivially_copyable<Params>::value && std::is_standard_layout<Params>::value, "params are POD");
  static_assert(sizeof(Params) <= sizeof(Launch::params), "params fit a Launch");
  Launch launch = {};
  launch.grid[0] = grid;
  launch.block[0] = block;
  launch.grid[1] = launch.grid[2] = launch.block[1] = launch.block[2] = 1;
  launch.shared_bytes = shared_bytes;
  launch.params_bytes = sizeof(Params);
  memcpy(launch.params, &params, sizeof(Params));
  return launch;
}

// Names the instantiation, printf-wise: name_kernel(launch, "gk::scaled_add<%s, %d>", type, vector).
__attribute__((format(printf, 2, 3))) inline void name_kernel(Launch& launch, const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(launch.kernel, sizeof launch.kernel, format, args);
  va_end(args);
}

// An entry: a C function that checks, plans and launches, and returns nullptr or an error. Its text is exported beside
// it, so that a caller knows the arguments without a second declaration.
#define GK_DECLARE_ENTRY(name, ...) extern "C" const char* name(__VA_ARGS__, const gk::Launcher* launcher)
#define GK_ENTRY(name, ...)                     \
  extern "C" {                                  \
  extern const char name##_signature[];         \
  const char name##_signature[] = #__VA_ARGS__; \
  }                                             \
  GK_DECLARE_ENTRY(name, __VA_ARGS__);          \
  const char* name(__VA_ARGS__, const gk::Launcher* launcher)

// Exports the names of an operator's kernel list: `const char* const gk_<op>_kernels[]`, ended by nullptr.
#define GK_KERNEL_NAME(...) #__VA_ARGS__,
#define GK_EXPORT_KERNELS(op, LIST)                                       \
  extern "C" {                                                            \
  extern const char* const gk_##op##_kernels[];                           \
  const char* const gk_##op##_kernels[] = {LIST(GK_KERNEL_NAME) nullptr}; \
  }

#endif  // __CUDACC_RTC__

}  // namespace gk
