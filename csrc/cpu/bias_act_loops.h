// The loops of bias_act over the units of ChannelRuns; compiled once for each instruction set (foreach_isa.h).

#include "cpu/act_blocks.h"

// Calls f(run's first element, bias of the run, length) for the runs of a unit.
template <class acc_t, class F>
inline void each_run(const ChannelRuns& runs, int64_t unit, const acc_t* bias, F f) {
  const int64_t begin = runs.begin(unit), end = runs.end(unit);
  if (!runs.written_out())
    return f(begin, RunBias<acc_t>{nullptr, bias ? bias[runs.channel(unit)] : acc_t(0)}, end - begin);
  for (int64_t i = begin; i < end; i += runs.period) f(i, RunBias<acc_t>{bias, 0}, std::min(runs.period, end - i));
}

template <class T, class acc_t>
void value_unit(const ChannelRuns& runs, int64_t unit, const T* x, const acc_t* bias, T* y, Act act,
                const ActParams& p) {
  const auto block = value_block_of<acc_t>(act);
  each_run(runs, unit, bias, [&](int64_t at, RunBias<acc_t> b, int64_t n) {
    if constexpr (std::is_same_v<T, acc_t>) {
      block(x + at, b, y + at, n, p);
    } else {
      acc_t in[kBlock], out[kBlock];
      for (int64_t i = 0; i < n; i += kBlock) {
        const int64_t m = std::min(kBlock, n - i);
        load_block(x + at + i, in, m);
        block(in, b.from(i), out, m, p);
        store_block(out, y + at + i, m);
      }
    }
  });
}

// One run of BiasActDerivative from element `at`; gb and b are its biases. Sums go to `each` element by element, or
// to the one number `all`.
template <class T, class acc_t>
void derivative_run(const BiasActDerivative<T, acc_t>& d, DerivativeBlock<acc_t> block, int64_t at, RunBias<acc_t> gb,
                    RunBias<acc_t> b, double* each, double* all, int64_t n, const ActParams& p) {
  acc_t product[kBlock], other[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = std::min(kBlock, n - i), k = at + i;
    const acc_t* factor = as_acc(d.g + k, product, m);
    if (d.g_bias != nullptr) {
      add_bias(factor, gb.from(i), product, m);
      factor = product;
    }
    if (d.h != nullptr) {
      const acc_t* scale = as_acc(d.h + k, other, m);
      for (int64_t j = 0; j < m; ++j) product[j] = factor[j] * scale[j];
      factor = product;
    }
    acc_t* result = product;
    if constexpr (std::is_same_v<T, acc_t>)
      if (d.out != nullptr) result = d.out + k;
    if (d.ref != nullptr) {
      const acc_t* u = as_acc(d.ref + k, other, m);
      if (d.bias != nullptr) {
        add_bias(u, b.from(i), other, m);
        u = other;
      }
      block(factor, u, result, m, p);
    } else {
      for (int64_t j = 0; j < m; ++j) result[j] = factor[j] * acc_t(p.gain);
    }
    if constexpr (!std::is_same_v<T, acc_t>)
      if (d.out != nullptr) store_block(result, d.out + k, m);
    if (each != nullptr)
      for (int64_t j = 0; j < m; ++j) each[i + j] += result[j];
    else if (all != nullptr)
      *all += sum_block(result, m);
  }
}

template <class T, class acc_t>
void derivative_unit(const ChannelRuns& runs, int64_t unit, const BiasActDerivative<T, acc_t>& d, Act act,
                     int64_t order, const ActParams& p) {
  const auto block = derivative_block_of<acc_t>(act, order, d.ref_is_output);
  double* sums = d.sums ? d.sums + unit * runs.sums() : nullptr;
  const bool each = runs.written_out();
  const acc_t g_bias = d.g_bias && !each ? d.g_bias[runs.channel(unit)] : acc_t(0);
  each_run(runs, unit, d.bias, [&](int64_t at, RunBias<acc_t> b, int64_t n) {
    derivative_run(d, block, at, {each ? d.g_bias : nullptr, g_bias}, b, each ? sums : nullptr, each ? nullptr : sums,
                   n, p);
  });
}
