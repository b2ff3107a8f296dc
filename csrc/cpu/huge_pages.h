// Large results in huge pages: the first write to a fresh 4 KiB page costs more than the arithmetic on it.
#pragma once
#include <ATen/core/Tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gk {

// Asks for huge pages behind a result of 4 MiB or more that is about to be written; a hint, refused without harm.
inline void prefer_huge_pages(const at::Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  const uintptr_t data = reinterpret_cast<uintptr_t>(t.const_data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + t.nbytes()) / kPage * kPage;
  if (t.nbytes() >= 2 * kPage && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace gk
