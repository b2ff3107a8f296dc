// Where the launches go that no nvcc-compiled runner takes.
#include "device.h"

namespace gk {

Emulator& emulator() {
  static Emulator installed = {};
  return installed;
}

RunLaunch& runtime_runner() {
  static RunLaunch installed = nullptr;
  return installed;
}

}  // namespace gk

extern "C" void gk_set_emulator(const gk::Emulator* emulator) {
  gk::emulator() = emulator ? *emulator : gk::Emulator{};
}

extern "C" void gk_set_runtime_runner(gk::RunLaunch run) { gk::runtime_runner() = run; }
