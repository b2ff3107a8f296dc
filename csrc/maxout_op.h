// What the CPU and CUDA sides of maxout check and allocate alike.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <vector>

namespace gk {

// A tensor seen as [rows, pieces, inner], and its results as [rows, inner].
struct MaxoutShape {
  at::MemoryFormat format;
  std::vector<int64_t> whole, reduced;  // sizes with all channels, and with the largest
  int64_t rows = 1, pieces, inner = 1;

  // `like` has all channels, or a `pieces`-th of them.
  MaxoutShape(const at::Tensor& like, int64_t pieces, int64_t dim, bool all)
      : whole(like.sizes().vec()), reduced(whole), pieces(pieces) {
    TORCH_CHECK_VALUE(dim >= 0 && dim < like.dim(), "maxout: dim is ", dim, " for a tensor of ", like.dim(),
                      " dimensions");
    TORCH_CHECK_VALUE(pieces >= 1 && pieces <= 0x7fffffff, "maxout: pieces is ", pieces, ", expected 1 to 2^31 - 1");
    TORCH_CHECK_VALUE(!all || whole[dim] % pieces == 0, "maxout: x has ", whole[dim],
                      " channels, expected a multiple of pieces = ", pieces);
    format = dim == 1 ? like.suggest_memory_format() : at::MemoryFormat::Contiguous;
    reduced[dim] = all ? whole[dim] / pieces : whole[dim];
    whole[dim] = reduced[dim] * pieces;
    if (format == at::MemoryFormat::Contiguous)
      for (int64_t i = dim + 1; i < like.dim(); ++i) inner *= whole[i];
    for (const int64_t size : reduced) rows *= size;
    if (inner > 0) rows /= inner;
  }
  int64_t results() const { return rows * inner; }
  bool wide_index() const { return pieces > 256; }
  at::ScalarType index_type() const { return wide_index() ? at::kInt : at::kByte; }
  at::Tensor empty(const std::vector<int64_t>& sizes, const at::Tensor& like, at::ScalarType type) const {
    return at::empty(sizes, like.options().dtype(type), format);
  }
  at::Tensor index(const at::Tensor& like, bool wanted) const {
    return wanted ? empty(reduced, like, index_type()) : at::empty({0}, like.options().dtype(index_type()));
  }
  at::Tensor checked(const at::Tensor& t, const char* name, const std::vector<int64_t>& sizes) const {
    TORCH_CHECK_VALUE(t.sizes() == at::IntArrayRef(sizes), "maxout: ", name, " has shape ", t.sizes(), ", expected ",
                      at::IntArrayRef(sizes));
    return t.contiguous(format);
  }
  at::Tensor checked_index(const at::Tensor& t) const {
    TORCH_CHECK_VALUE(t.scalar_type() == index_type(), "maxout: index is ", t.scalar_type(), ", expected ",
                      index_type());
    return checked(t, "index", reduced);
  }
};

}  // namespace gk
