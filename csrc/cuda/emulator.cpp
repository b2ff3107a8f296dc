// Where tests install what runs the launches of CPU tensors.
#include "device.h"

namespace gk {

Emulator& emulator() {
  static Emulator installed = {};
  return installed;
}

}  // namespace gk

extern "C" void gk_set_emulator(const gk::Emulator* emulator) {
  gk::emulator() = emulator ? *emulator : gk::Emulator{};
}
