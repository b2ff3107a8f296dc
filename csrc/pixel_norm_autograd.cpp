// Schema and autograd of pixel_norm: forward, backward and double backward each an operator of its own.
#include "second_order.h"

namespace {

struct PixelNorm {
  static constexpr const char* kName = "pixel_norm";
  using A = int64_t;  // dim
  using B = double;   // eps
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("pixel_norm(Tensor x, int dim, float eps) -> Tensor");
  m.def("pixel_norm_backward(Tensor g, Tensor x, int dim, float eps) -> Tensor");
  m.def(
      "pixel_norm_double_backward(Tensor v, Tensor g, Tensor x, int dim, float eps, bool[2] wanted) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) { gk::SecondOrder<PixelNorm>::register_autograd(m); }
