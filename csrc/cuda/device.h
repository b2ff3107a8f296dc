// Between torch tensors and an operator's entries: pointers, the stream, errors. For bindings,
// csrc/cuda/<op>_torch.cpp.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <optional>

#include "launch.h"

namespace gk {

// Tests run the launches of CPU tensors elsewhere: `begin` opens a call of `op`, `address` gives a tensor the device
// address that kernels will see, and `run` takes the place of Launcher::run.
struct Emulator {
  void (*begin)(const char* op);
  u64 (*address)(const void* storage, i64 storage_bytes, i64 start, i64 item_bytes, i64 dims, const i64* sizes,
                 const i64* strides);
  RunLaunch run;
};

Emulator& emulator();  // all null outside tests

// Whether a tensor is the CPU's own, not a test's stand-in for a GPU's.
inline bool on_cpu(const at::Tensor& tensor) { return tensor.is_cpu() && emulator().run == nullptr; }

// Runs the launches of CUDA tensors in a build without CUDA; null until gankernels._launch puts CuPy there.
RunLaunch& runtime_runner();

// The runner that an operator's .cu exports; in a build without CUDA the installed one: GK_RUNNER(bias_act)
#ifdef GANKERNELS_WITH_CUDA
#define GK_DECLARE_RUNNER(op) extern "C" const char* gk_##op##_run(const gk::Launcher* self, const gk::Launch* launch)
#define GK_RUNNER(op) (&gk_##op##_run)
#else
#define GK_DECLARE_RUNNER(op) static_assert(true, "")
#define GK_RUNNER(op) gk::runtime_runner()
#endif

inline i64 dtype_code(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return kFloat32;
    case at::kDouble:
      return kFloat64;
    case at::kHalf:
      return kFloat16;
    case at::kBFloat16:
      return kBFloat16;
    default:
      TORCH_CHECK(false, "dtype: got ", tensor.scalar_type(), ", expected float32, float64, float16 or bfloat16");
  }
}

// One call of an operator's entries, on the device and current stream of `like`.
class Call {
 public:
  Call(const char* op, RunLaunch run, const at::Tensor& like) : op_(op), emulated_(like.is_cpu()) {
    if (emulated_) {
      TORCH_CHECK(emulator().run, op, ": a CUDA kernel was called with tensors on ", like.device());
      emulator().begin(op);
      launcher_ = {emulator().run, nullptr, op, 0};
      return;
    }
    TORCH_CHECK(run, op, ": gankernels was built without CUDA (reinstall it where nvcc is, with GANKERNELS_CUDA=1)");
    // The device-independent faces of CUDAGuard and getCurrentCUDAStream, which a build without CUDA also has.
    guard_.emplace(like.device());
    const c10::Stream stream = c10::impl::VirtualGuardImpl(like.device().type()).getStream(like.device());
    launcher_ = {run, stream.native_handle(), op, like.device().index()};
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // What an entry takes for a tensor; null for an undefined one.
  void* pointer(const at::Tensor& tensor) const {
    if (!tensor.defined()) return nullptr;
    if (!emulated_) return tensor.data_ptr();
    const i64 item = static_cast<i64>(tensor.element_size());
    static_assert(sizeof(i64) == sizeof(int64_t), "sizes travel as i64");
    return reinterpret_cast<void*>(emulator().address(
        tensor.storage().data(), static_cast<i64>(tensor.storage().nbytes()), tensor.storage_offset() * item, item,
        tensor.dim(), reinterpret_cast<const i64*>(tensor.sizes().data()),
        reinterpret_cast<const i64*>(tensor.strides().data())));
  }
  void* pointer(const std::optional<at::Tensor>& tensor) const { return tensor ? pointer(*tensor) : nullptr; }

  const Launcher* launcher() const { return &launcher_; }

  // Raises what an entry returned.
  void check(const char* error) const { TORCH_CHECK(!error, op_, ": ", error); }

 private:
  const char* op_;
  bool emulated_;
  Launcher launcher_ = {};
  std::optional<c10::DeviceGuard> guard_;
};

}  // namespace gk
