// A CUDA device of two GPUs for a torch without CUDA: memory of the host, streams that are numbers, no kernel.
#include <ATen/EmptyTensor.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

thread_local DeviceIndex current_device = 0;
int64_t current_streams[2] = {0, 0};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device d) const override {
    const Device old = getDevice();
    setDevice(d);
    return old;
  }
  Device getDevice() const override { return Device(DeviceType::CUDA, current_device); }
  void setDevice(Device d) const override { current_device = d.index(); }
  void uncheckedSetDevice(Device d) const noexcept override { current_device = d.index(); }
  Stream getStream(Device d) const override { return Stream(Stream::UNSAFE, d, current_streams[d.index()]); }
  Stream getDefaultStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream exchangeStream(Stream s) const override {
    const Stream old = getStream(s.device());
    current_streams[s.device_index()] = s.id();
    return old;
  }
  void* getStreamNativeHandle(const Stream s) const override {
    return s.id() ? reinterpret_cast<void*>(0x1000 + s.id()) : nullptr;
  }
  DeviceIndex deviceCount() const noexcept override { return 2; }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

std::map<void*, size_t> live;
std::mutex live_lock;

void release(void* memory) {
  const std::lock_guard<std::mutex> lock(live_lock);
  live.erase(memory);
  std::free(memory);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = nullptr;
    TORCH_CHECK(posix_memalign(&memory, 512, bytes ? bytes : 1) == 0, "out of memory");
    std::memset(memory, 0xff, bytes);
    const std::lock_guard<std::mutex> lock(live_lock);
    live[memory] = bytes;
    return {memory, memory, &release, Device(DeviceType::CUDA, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
const c10::DispatchKeySet kCuda(c10::DispatchKey::CUDA);

void enter(std::optional<Device> device) {
  if (device && device->has_index()) current_device = device->index();
}

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const DeviceIndex before = current_device;
  enter(device);
  const Tensor made =
      at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, kCuda, at::dtype_or_default(dtype), format);
  current_device = before;
  return made;
}

Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  const DeviceIndex before = current_device;
  enter(device);
  const Tensor made = at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
                                                        &memory, kCuda, at::dtype_or_default(dtype));
  current_device = before;
  return made;
}

// The same strides in memory of its own. Its bytes are what the strides span, not what the elements take: an expanded
// tensor has fewer, a sliced one more.
Tensor copied(const Tensor& x, Device where) {
  const Tensor made = at::empty_strided(x.sizes(), x.strides(), x.options().device(where));
  std::memcpy(made.data_ptr(), x.data_ptr(), made.storage().nbytes());
  return made;
}

Tensor to_cuda(const Tensor& x, int64_t device) {
  return copied(x, Device(DeviceType::CUDA, static_cast<DeviceIndex>(device)));
}
Tensor to_cpu(const Tensor& x) { return copied(x, at::kCPU); }

std::vector<int64_t> allocations() {
  const std::lock_guard<std::mutex> lock(live_lock);
  std::vector<int64_t> found;
  for (const auto& [address, bytes] : live) {
    found.push_back(reinterpret_cast<int64_t>(address));
    found.push_back(static_cast<int64_t>(bytes));
  }
  return found;
}

void set_stream(int64_t device, int64_t stream) { current_streams[device] = stream; }
int64_t device() { return current_device; }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("view", &at::native::view);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
}

TORCH_LIBRARY(gk_fake_cuda, m) {
  m.def("to_cuda(Tensor x, int device) -> Tensor", &to_cuda);
  m.def("to_cpu(Tensor x) -> Tensor", &to_cpu);
  m.def("allocations() -> int[]", &allocations);
  m.def("set_stream(int device, int stream) -> ()", &set_stream);
  m.def("device() -> int", &device);
}

}  // namespace
