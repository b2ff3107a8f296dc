// Compiles GK_ISA_FILE once for each instruction set, in namespaces GK_ISA_SPACE::base, ::avx2 and ::avx512.
// No include guard: a source file sets both macros and includes this once. convert_loops.h is there in each. The file
// named must include nothing itself: a header first seen between these pragmas would be compiled for the wrong machine.
#include <ATen/OpMathType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/isa.h"
#if GK_X86_TARGETS
#include <immintrin.h>
#endif

namespace GK_ISA_SPACE::base {
#define GK_VECTOR_BYTES 16
#include "cpu/convert_loops.h"
#include GK_ISA_FILE
#undef GK_VECTOR_BYTES
}  // namespace GK_ISA_SPACE::base

#if GK_X86_TARGETS

#define GK_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2,prefer-vector-width=256")
#endif
namespace GK_ISA_SPACE::avx2 {
#include "cpu/convert_loops.h"
#include GK_ISA_FILE
}  // namespace GK_ISA_SPACE::avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GK_VECTOR_BYTES

#define GK_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#endif
namespace GK_ISA_SPACE::avx512 {
#include "cpu/convert_loops.h"
#include GK_ISA_FILE
}  // namespace GK_ISA_SPACE::avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef GK_VECTOR_BYTES

#endif
