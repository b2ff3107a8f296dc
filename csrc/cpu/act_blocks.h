// Included by loops (foreach_isa.h), once in each instruction set's namespace: bias_act on a block of numbers.

constexpr int64_t kBlock = 512;

// The bias of a run: one an element where `each` is set, else one for all.
template <class acc_t>
struct RunBias {
  const acc_t* each;
  acc_t all;
  RunBias from(int64_t i) const { return {each ? each + i : nullptr, all}; }
};

template <class acc_t>
inline void add_bias(const acc_t* x, RunBias<acc_t> b, acc_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] + (b.each ? b.each[i] : b.all);
}

template <Act A, class acc_t>
inline void value_block(const acc_t* __restrict x, RunBias<acc_t> b, acc_t* __restrict y, int64_t n,
                        const ActParams& p) {
  const acc_t alpha = p.alpha, gain = p.gain, bound = p.bound;
  if (b.each != nullptr) {
    const acc_t* __restrict each = b.each;
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act_value<A>(x[i] + each[i], alpha, gain, bound);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = bias_act_value<A>(x[i] + b.all, alpha, gain, bound);
  }
}

template <Act A, int K, class acc_t>
inline void derivative_block(const acc_t* factor, const acc_t* u, acc_t* out, int64_t n, const ActParams& p) {
  const acc_t alpha = p.alpha, gain = p.gain, bound = p.bound;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = bias_act_derivative<A, K>(factor[i], u[i], alpha, gain, bound);
}

template <Act A, int K, class acc_t>
inline void output_block(const acc_t* factor, const acc_t* y, acc_t* out, int64_t n, const ActParams& p) {
  const acc_t alpha = p.alpha, gain = p.gain;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = factor[i] * slope_of_output<A, K>(y[i], alpha, gain);
}

template <class acc_t>
using ValueBlock = void (*)(const acc_t*, RunBias<acc_t>, acc_t*, int64_t, const ActParams&);
template <class acc_t>
using DerivativeBlock = void (*)(const acc_t*, const acc_t*, acc_t*, int64_t, const ActParams&);

template <class acc_t>
ValueBlock<acc_t> value_block_of(Act act) {
  ValueBlock<acc_t> block = nullptr;
  with_act(act, [&](auto a) { block = value_block<a.value, acc_t>; });
  return block;
}

template <class acc_t>
DerivativeBlock<acc_t> derivative_block_of(Act act, int64_t order, bool from_output) {
  DerivativeBlock<acc_t> block = nullptr;
  with_act(act, [&](auto a) {
    constexpr Act A = a.value;
    if constexpr (A == Act::relu || A == Act::lrelu || A == Act::tanh || A == Act::sigmoid) {
      if (from_output) {
        block = order == 1   ? output_block<A, 1, acc_t>
                : order == 2 ? output_block<A, 2, acc_t>
                             : output_block<A, 3, acc_t>;
        return;
      }
    }
    block = order == 1   ? derivative_block<A, 1, acc_t>
            : order == 2 ? derivative_block<A, 2, acc_t>
                         : derivative_block<A, 3, acc_t>;
  });
  return block;
}
