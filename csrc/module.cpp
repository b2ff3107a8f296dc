// The importable module: facts of the build and of this CPU. Loading it runs the registrations in cpu/ and cuda/.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "cpu/isa.h"
#include "cuda/launch.h"
#include "plain_calls.h"

namespace py = pybind11;

extern "C" void gk_set_runtime_runner(gk::RunLaunch run);

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of gankernels, registered as torch.ops.gankernels_native.*";
  m.def("build_info", [] {
    py::dict info;
#ifdef GANKERNELS_WITH_CUDA
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
#ifdef _OPENMP
    info["openmp"] = true;
#else
    info["openmp"] = false;
#endif
    info["compiler"] = GANKERNELS_COMPILER;
    return info;
  });
  m.def(
      "cpu_capability", [] { return gk::isa_name(gk::active_isa()); },
      "The instruction set that the CPU kernels use here: base, avx2 or avx512.");
  m.def(
      "set_runtime_runner", [](std::uintptr_t run) { gk_set_runtime_runner(reinterpret_cast<gk::RunLaunch>(run)); },
      py::arg("run"), "Gives the launches of CUDA tensors to a C function (its address, a gk::RunLaunch).");
  gk::define_plain_calls(m.ptr());
}
