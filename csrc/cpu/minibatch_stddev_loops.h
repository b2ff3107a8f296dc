// The loops of minibatch_stddev over pieces of a lot's part; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 256;

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// Calls f(offset in x's part, offset in y's part, length) for the blocks of positions begin to end.
template <class F>
inline void each_block(const StddevLayout& l, int64_t begin, int64_t end, F f) {
  for (int64_t k = begin; k < end;) {
    const int64_t run = k / l.run, at = k - run * l.run;
    const int64_t n = std::min({kBlock, end - k, int64_t(l.run) - at});
    f(run * l.x_run + at, run * l.y_run + at, n);
    k += n;
  }
}

// Over the group, around its first sample: where samples are alike their differences are exact, their mean is not.
template <class acc_t>
struct Centre {
  acc_t base[kBlock], mean[kBlock];
  acc_t centred(const acc_t* row, int64_t j) const { return (row[j] - base[j]) - mean[j]; }
};

template <class T, class acc_t>
inline void centre(const T* x, int64_t stride, int64_t group, Centre<acc_t>& c, int64_t n) {
  acc_t buffer[kBlock];
  load_block(x, c.base, n);
  for (int64_t j = 0; j < n; ++j) c.mean[j] = 0;
  for (int64_t g = 1; g < group; ++g) {
    const acc_t* __restrict row = as_acc(x + g * stride, buffer, n);
    for (int64_t j = 0; j < n; ++j) c.mean[j] += row[j] - c.base[j];
  }
  const acc_t share = acc_t(1) / acc_t(group);
  for (int64_t j = 0; j < n; ++j) c.mean[j] *= share;
}

template <class T, class acc_t>
inline void moments(const T* x, int64_t stride, int64_t group, Centre<acc_t>& c, acc_t* __restrict deviation,
                    int64_t n) {
  acc_t buffer[kBlock];
  centre(x, stride, group, c, n);
  for (int64_t j = 0; j < n; ++j) deviation[j] = 0;
  for (int64_t g = 0; g < group; ++g) {
    const acc_t* __restrict row = as_acc(x + g * stride, buffer, n);
    for (int64_t j = 0; j < n; ++j) {
      const acc_t d = c.centred(row, j);
      deviation[j] += d * d;
    }
  }
  const acc_t share = acc_t(1) / acc_t(group), eps = kStddevEps;
  for (int64_t j = 0; j < n; ++j) deviation[j] = root(deviation[j] * share + eps);
}

// The sum of the deviations of a piece; x goes to y.
template <class T>
double value_piece(const StddevLayout& l, const T* x, T* y, int64_t begin, int64_t end) {
  using acc_t = at::opmath_type<T>;
  Centre<acc_t> c;
  acc_t deviation[kBlock];
  double sum = 0;
  const int64_t sx = l.lots * l.x_sample, sy = l.lots * l.y_sample, group = l.group;
  each_block(l, begin, end, [&](int64_t at, int64_t to, int64_t n) {
    moments(x + at, sx, group, c, deviation, n);
    sum += sum_block(deviation, n);
    for (int64_t g = 0; g < group; ++g) memcpy(y + g * sy + to, x + g * sx + at, n * sizeof(T));
  });
  return sum;
}

// gx = gy + scale d / s
template <class T, class acc_t>
void backward_piece(const StddevLayout& l, const T* gy, const T* x, T* gx, acc_t scale, int64_t begin, int64_t end) {
  Centre<acc_t> c;
  acc_t deviation[kBlock], first[kBlock], second[kBlock];
  const int64_t sx = l.lots * l.x_sample, sy = l.lots * l.y_sample, group = l.group;
  each_block(l, begin, end, [&](int64_t at, int64_t from, int64_t n) {
    moments(x + at, sx, group, c, deviation, n);
    for (int64_t j = 0; j < n; ++j) deviation[j] = scale / deviation[j];
    for (int64_t g = 0; g < group; ++g) {
      const acc_t* row = as_acc(x + g * sx + at, first, n);
      const acc_t* up = as_acc(gy + g * sy + from, second, n);
      for (int64_t j = 0; j < n; ++j) first[j] = up[j] + deviation[j] * c.centred(row, j);
      store_block(first, gx + g * sx + at, n);
    }
  });
}

// The sum of q / s, with v going to ggy, and gx = scale (w / s - q d / s^3); ggy and gx may be null.
template <class T, class acc_t>
double second_piece(const StddevLayout& l, const T* v, const T* x, T* ggy, T* gx, acc_t scale, int64_t begin,
                    int64_t end) {
  Centre<acc_t> c, cv;
  acc_t deviation[kBlock], q[kBlock], first[kBlock], second[kBlock];
  double sum = 0;
  const int64_t sx = l.lots * l.x_sample, sy = l.lots * l.y_sample, group = l.group;
  const acc_t share = acc_t(1) / acc_t(group);
  each_block(l, begin, end, [&](int64_t at, int64_t to, int64_t n) {
    moments(x + at, sx, group, c, deviation, n);
    centre(v + at, sx, group, cv, n);
    for (int64_t j = 0; j < n; ++j) q[j] = 0;
    for (int64_t g = 0; g < group; ++g) {
      const acc_t* row = as_acc(x + g * sx + at, first, n);
      const acc_t* up = as_acc(v + g * sx + at, second, n);
      for (int64_t j = 0; j < n; ++j) q[j] += cv.centred(up, j) * c.centred(row, j);
    }
    for (int64_t j = 0; j < n; ++j) {
      deviation[j] = acc_t(1) / deviation[j];
      q[j] *= share * deviation[j];
    }
    sum += sum_block(q, n);
    if (ggy != nullptr)
      for (int64_t g = 0; g < group; ++g) memcpy(ggy + g * sy + to, v + g * sx + at, n * sizeof(T));
    if (gx == nullptr) return;
    for (int64_t j = 0; j < n; ++j) q[j] *= deviation[j] * deviation[j];
    for (int64_t g = 0; g < group; ++g) {
      const acc_t* row = as_acc(x + g * sx + at, first, n);
      const acc_t* up = as_acc(v + g * sx + at, second, n);
      for (int64_t j = 0; j < n; ++j) first[j] = scale * (cv.centred(up, j) * deviation[j] - q[j] * c.centred(row, j));
      store_block(first, gx + g * sx + at, n);
    }
  });
  return sum;
}
