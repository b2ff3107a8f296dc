// Schema and autograd of minibatch_stddev: forward, backward and double backward each an operator of its own.
#include "second_order.h"

namespace {

struct MinibatchStddev {
  static constexpr const char* kName = "minibatch_stddev";
  using A = int64_t;  // group size
  using B = int64_t;  // channels
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(gankernels_native, m) {
  m.def("minibatch_stddev(Tensor x, int group_size, int channels) -> Tensor");
  m.def("minibatch_stddev_backward(Tensor gy, Tensor x, int group_size, int channels) -> Tensor");
  m.def(
      "minibatch_stddev_double_backward(Tensor v, Tensor gy, Tensor x, int group_size, int channels, bool[2] wanted) "
      "-> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(gankernels_native, Autograd, m) { gk::SecondOrder<MinibatchStddev>::register_autograd(m); }
