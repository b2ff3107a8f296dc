// spectral_norm: which weights a launch takes, their blocks and the instantiation.
#include "spectral_norm_params.h"

namespace gk {
namespace {

constexpr i64 kMost = 0x7FFFFFFF;

i64 strip(i64 dtype) { return kSpectralPacks * (16 / type_bytes(dtype)); }

const void* pointer(const i64* list, i64 i) { return list ? reinterpret_cast<const void*>(list[i]) : nullptr; }

// What both entries are given of the weights.
struct Weights {
  const i64 *a, *b, *c, *out, *rows, *cols;
  i64 count;
};

// Launches of at most kSpectralMost weights; blocks_of gives a weight's blocks, `kernel` is the name up to the dtype.
template <class Blocks>
const char* launch_all(const Launcher* launcher, SpectralParams& p, const Weights& w, i64 dtype, const char* kernel,
                       const char* rest, Blocks blocks_of) {
  if (!type_name(dtype)) return fail("dtype: got code %lld, expected 0 to 3", dtype);
  i64 u_at = 0, v_at = 0;
  for (i64 begin = 0; begin < w.count; begin += kSpectralMost) {
    i64 blocks = 0;
    for (p.count = 0; p.count < kSpectralMost && begin + p.count < w.count; ++p.count) {
      const i64 i = begin + p.count, rows = w.rows[i], cols = w.cols[i];
      if (rows < 1 || cols < 1 || rows > kMost / cols)
        return fail("weights: got [%lld, %lld], expected 1 to 2^31 - 1 elements", rows, cols);
      SpectralWeight& to = p.weights[p.count];
      to.a = pointer(w.a, i);
      to.b = pointer(w.b, i);
      to.c = pointer(w.c, i);
      to.out = const_cast<void*>(pointer(w.out, i));
      to.rows = static_cast<i32>(rows);
      to.cols = static_cast<i32>(cols);
      to.u_at = static_cast<i32>(u_at);
      to.v_at = static_cast<i32>(v_at);
      to.first = static_cast<i32>(blocks);
      to.index = static_cast<i32>(i);
      u_at += rows;
      v_at += cols;
      blocks += blocks_of(rows, cols);
      if (u_at > kMost || v_at > kMost || blocks > kMost) return fail("weights: got too many for 32-bit indices");
    }
    Launch launch = launch_of(p, static_cast<u32>(blocks), kSpectralThreads);
    name_kernel(launch, "gk::%s<%s%s>", kernel, type_name(dtype), rest);
    if (const char* error = launcher->run(launcher, &launch)) return error;
  }
  return nullptr;
}

}  // namespace
}  // namespace gk

GK_EXPORT_KERNELS(spectral_norm, GK_SPECTRAL_NORM_KERNELS)

extern "C" gk::i64 gk_spectral_norm_parts(gk::i64 rows, gk::i64 cols, gk::i64 dtype) {
  using namespace gk;
  i64 most = ceil_div(rows, kSpectralRows);
  const i64 strips = ceil_div(cols, strip(dtype)), tiles = ceil_div(rows * cols, kSpectralTile);
  if (strips > most) most = strips;
  if (tiles > most) most = tiles;
  return most;
}

GK_ENTRY(gk_spectral_norm_step, const gk::i64* a, const gk::i64* out, const gk::i64* rows, const gk::i64* cols,
         gk::i64 count, const void* u, const void* v, void* s, void* t, void* u_out, void* v_out, void* sigma,
         void* s_parts, void* t_parts, gk::i64 stride, gk::i64 what, gk::i64 flags, double eps, gk::i64 dtype) {
  using namespace gk;
  SpectralParams p = {};
  p.mode = static_cast<i32>(flags);
  p.stride = static_cast<i32>(stride);
  p.eps = eps;
  p.u = u;
  p.v = v;
  p.s = s;
  p.t = t;
  p.u_out = u_out;
  p.v_out = v_out;
  p.sigma = sigma;
  p.s_parts = s_parts;
  p.t_parts = t_parts;
  const Weights w = {a, nullptr, nullptr, out, rows, cols, count};
  switch (what) {
    case 0:
      return launch_all(launcher, p, w, dtype, "spectral_rows", "",
                        [](i64 rows, i64) { return ceil_div(rows, kSpectralRows); });
    case 1:
      return launch_all(launcher, p, w, dtype, "spectral_columns", "",
                        [&](i64, i64 cols) { return ceil_div(cols, strip(dtype)); });
    case 2:
      return launch_all(launcher, p, w, dtype, "spectral_divide", "",
                        [](i64 rows, i64 cols) { return ceil_div(rows * cols, kSpectralTile); });
    default:
      return fail("what: got %lld, expected 0 to 2", what);
  }
}

GK_ENTRY(gk_spectral_norm_derivative, const gk::i64* a, const gk::i64* b, const gk::i64* c, const gk::i64* out,
         const gk::i64* rows, const gk::i64* cols, gk::i64 count, const void* u, const void* v, const void* sigma,
         void* parts, gk::i64 stride, gk::i64 what, gk::i64 dtype) {
  using namespace gk;
  static const char* const kinds[] = {", 0", ", 1", ", 2"};
  if (what < 0 || what > 3) return fail("what: got %lld, expected 0 to 3", what);
  SpectralParams p = {};
  p.stride = static_cast<i32>(stride);
  p.u = u;
  p.v = v;
  p.sigma = const_cast<void*>(sigma);
  p.s_parts = parts;
  const auto tiles = [](i64 rows, i64 cols) { return ceil_div(rows * cols, kSpectralTile); };
  return launch_all(launcher, p, {a, b, c, out, rows, cols, count}, dtype,
                    what == 3 ? "spectral_dots" : "spectral_combine", what == 3 ? "" : kinds[what], tiles);
}
