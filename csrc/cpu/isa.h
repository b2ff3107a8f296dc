// Which compiled copy of a loop runs. A kernel's loops stand in a header that foreach_isa.h compiles once for each
// instruction set, so that one binary runs on every machine and uses what it finds.
#pragma once
#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(__GNUC__) || defined(__clang__))
#define GK_X86_TARGETS 1
#else
#define GK_X86_TARGETS 0
#endif

#if defined(__clang__)
#define GK_COMPILER_NAME "clang"
#elif defined(__GNUC__)
#define GK_COMPILER_NAME "gcc"
#else
#define GK_COMPILER_NAME "c++"
#endif
#if defined(__VERSION__)
#define GANKERNELS_COMPILER GK_COMPILER_NAME " " __VERSION__
#else
#define GANKERNELS_COMPILER GK_COMPILER_NAME
#endif

namespace gk {

enum class Isa { base, avx2, avx512 };

inline const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "base"; }

// GANKERNELS_CPU_CAPABILITY=base|avx2|avx512 lowers the choice (never raises it above what the CPU has).
inline Isa detect_isa() {
  Isa best = Isa::base;
#if GK_X86_TARGETS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    best = Isa::avx512;
#endif
  const char* want = std::getenv("GANKERNELS_CPU_CAPABILITY");
  if (want == nullptr) return best;
  for (Isa isa : {Isa::base, Isa::avx2})
    if (std::strcmp(want, isa_name(isa)) == 0 && isa < best) return isa;
  return best;
}

inline Isa active_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

}  // namespace gk

// Calls the copy of `function` (declared in the header given to foreach_isa.h) for this machine.
#if GK_X86_TARGETS
#define GK_ISA_CALL(space, function, ...)                                     \
  (gk::active_isa() == gk::Isa::avx512 ? space::avx512::function(__VA_ARGS__) \
   : gk::active_isa() == gk::Isa::avx2 ? space::avx2::function(__VA_ARGS__)   \
                                       : space::base::function(__VA_ARGS__))
#else
#define GK_ISA_CALL(space, function, ...) space::base::function(__VA_ARGS__)
#endif
