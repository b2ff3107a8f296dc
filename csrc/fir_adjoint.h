// The padding of the adjoint of a resampling.
#pragma once
#include <vector>

namespace gk {

// The paddings with which [out] samples, up by `down` and down by `up`, give back [in] in the adjoint of such an axis;
// integers of any kind, symbolic ones too.
template <class I>
inline void push_adjoint_padding(std::vector<I>& to, I in, I out, I taps, I up, I down, I pad0) {
  to.push_back(taps - 1 - pad0);
  to.push_back(in * up - out * down + pad0 - up + 1);
}

}  // namespace gk
