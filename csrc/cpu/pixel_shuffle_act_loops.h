// The loops of pixel_shuffle_act over the units of a Walk; compiled once for each instruction set (foreach_isa.h).

#include "cpu/act_blocks.h"

// A piece of x: `runs` runs of `length` neighbours, `x_step` apart; its channels are `channel` and those after it, one
// a run, or one an element where channels are last. In y it lies together from `y`, or, channels last, in [r, r]
// pixels of `length` / (r r) channels, `y_row` and `y_pixel` apart.
struct Tile {
  int64_t runs, length, x, x_step, channel, y, y_row, y_pixel;
  int64_t count() const { return runs * length; }
};

// [from][to] becomes [to][from]; kFrom 0 for any.
template <int kFrom, class acc_t>
inline void transpose_of(const acc_t* __restrict x, acc_t* __restrict out, int64_t any, int64_t to) {
  const int64_t from = kFrom ? kFrom : any;
  for (int64_t t = 0; t < to; ++t)
    for (int64_t f = 0; f < from; ++f) out[t * from + f] = x[f * to + t];
}
template <int kTo, class acc_t>
inline void transpose_to(const acc_t* __restrict x, acc_t* __restrict out, int64_t from, int64_t any) {
  const int64_t to = kTo ? kTo : any;
  for (int64_t f = 0; f < from; ++f)
    for (int64_t t = 0; t < to; ++t) out[t * from + f] = x[f * to + t];
}

template <class T, class acc_t>
inline void load_x(const T* x, const Tile& t, acc_t* out) {
  for (int64_t k = 0; k < t.runs; ++k) load_block(x + t.x + k * t.x_step, out + k * t.length, t.length);
}
template <class T, class acc_t>
inline void store_x(const acc_t* values, const Tile& t, T* x) {
  for (int64_t k = 0; k < t.runs; ++k) store_block(values + k * t.length, x + t.x + k * t.x_step, t.length);
}

// From y to the order of x; `spare` has the room of `out`.
template <class T, class acc_t>
inline void load_y(const T* y, const Walk& w, const Tile& t, acc_t* out, acc_t* spare) {
  if (!w.last) {
    load_block(y + t.y, spare, t.count());
    return (w.r == 2   ? transpose_to<2, acc_t>
            : w.r == 4 ? transpose_to<4, acc_t>
                       : transpose_to<0, acc_t>)(spare, out, t.length, w.r);
  }
  const int64_t all = w.r * w.r, wide = t.length / all;
  for (int64_t k = 0; k < all; ++k)
    load_block(y + t.y + k / w.r * t.y_row + k % w.r * t.y_pixel, spare + k * wide, wide);
  (all == 4 ? transpose_of<4, acc_t> : transpose_of<0, acc_t>)(spare, out, all, wide);
}
template <class T, class acc_t>
inline void store_y(const acc_t* values, const Walk& w, const Tile& t, T* y, acc_t* spare) {
  if (!w.last) {
    (w.r == 2   ? transpose_of<2, acc_t>
     : w.r == 4 ? transpose_of<4, acc_t>
                : transpose_of<0, acc_t>)(values, spare, w.r, t.length);
    return store_block(spare, y + t.y, t.count());
  }
  const int64_t all = w.r * w.r, wide = t.length / all;
  (all == 4 ? transpose_to<4, acc_t> : transpose_to<0, acc_t>)(values, spare, wide, all);
  for (int64_t k = 0; k < all; ++k)
    store_block(spare + k * wide, y + t.y + k / w.r * t.y_row + k % w.r * t.y_pixel, wide);
}

template <class acc_t>
inline void add_numbers(const acc_t* numbers, bool last, const Tile& t, acc_t* values) {
  if (numbers == nullptr) return;
  for (int64_t k = 0; k < t.runs; ++k) {
    const RunBias<acc_t> own{last ? numbers + t.channel : nullptr, numbers[t.channel + k]};
    add_bias(values + k * t.length, own, values + k * t.length, t.length);
  }
}

template <class T, class acc_t>
void run_tile(const Walk& w, const Tile& t, const Job<T, acc_t>& job, double* sums, acc_t* room) {
  const int64_t n = t.count(), size = w.room();
  acc_t *u = room, *g = room + size, *q = room + 2 * size, *result = room + 3 * size, *spare = room + 4 * size;
  if (job.ref != nullptr && job.ref_is_output)
    load_y(job.ref, w, t, u, spare);
  else if (job.ref != nullptr)
    load_x(job.ref, t, u);
  else
    std::fill(u, u + n, acc_t(0));
  if (!job.ref_is_output) add_numbers(job.bias, w.last, t, u);
  if (job.order == 0) {
    value_block_of<acc_t>(job.act)(u, {nullptr, 0}, result, n, job.numbers);
    return store_y(result, w, t, job.out, spare);
  }
  const auto slope = derivative_block_of<acc_t>(job.act, 1, false);
  load_y(job.g, w, t, g, spare);
  if (job.order == 1) {
    slope(g, u, result, n, job.numbers);
  } else {
    if (job.v != nullptr)
      load_x(job.v, t, q);
    else
      std::fill(q, q + n, acc_t(0));
    add_numbers(job.v_bias, w.last, t, q);
    if (job.out_g != nullptr) {
      slope(q, u, result, n, job.numbers);
      store_y(result, w, t, job.out_g, spare);
    }
    if (job.out == nullptr && sums == nullptr) return;
    for (int64_t i = 0; i < n; ++i) q[i] *= g[i];
    derivative_block_of<acc_t>(job.act, 2, false)(q, u, result, n, job.numbers);
  }
  if (job.out != nullptr) store_x(result, t, job.out);
  if (sums == nullptr) return;
  if (w.last)
    for (int64_t i = 0; i < n; ++i) sums[t.channel + i] += result[i];
  else
    for (int64_t k = 0; k < t.runs; ++k) sums[k] += sum_block(result + k * t.length, t.length);
}

template <class T, class acc_t>
void run_unit(const Walk& w, int64_t unit, const Job<T, acc_t>& job, acc_t* room) {
  double* sums = job.sums ? job.sums + unit * w.sums() : nullptr;
  const int64_t r = w.r, plane = w.h * w.w, wide = w.width(), channels = w.c * r * r;
  if (!w.last) {
    const int64_t sample = unit / (w.c * r), group = unit % (w.c * r), c = group / r, i = group % r;
    for (int64_t y = 0; y < w.h; ++y)
      for (int64_t x = 0; x < w.w; x += wide) {
        const int64_t in = (sample * channels + group * r) * plane + y * w.w + x;
        const int64_t out = ((sample * w.c + c) * w.h * r + y * r + i) * w.w * r + x * r;
        run_tile(w, {r, std::min(wide, w.w - x), in, plane, group * r, out, 0, 0}, job, sums, room);
      }
    return;
  }
  const int64_t rows = w.n * w.h, begin = rows * unit / w.units(), end = rows * (unit + 1) / w.units();
  for (int64_t row = begin; row < end; ++row)
    for (int64_t x = 0; x < w.w; ++x)
      for (int64_t c = 0; c < w.c; c += wide) {
        const int64_t in = (row * w.w + x) * channels + c * r * r, out = (row * r * w.w * r + x * r) * w.c + c;
        const int64_t length = std::min(wide, w.c - c) * r * r;
        run_tile(w, {1, length, in, 0, c * r * r, out, w.w * r * w.c, w.c}, job, sums, room);
      }
}
