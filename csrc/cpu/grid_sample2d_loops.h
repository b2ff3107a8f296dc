// The loops of grid_sample2d over blocks of positions; compiled once for each instruction set (foreach_isa.h).

constexpr int64_t kBlock = 128;

template <class acc_t>
struct Axes {
  acc_t weight[2][kBlock], slope[2][kBlock];
  int32_t pixel[2][kBlock];
  int32_t in[2][kBlock];

  void place(const acc_t* g, int64_t n, int size, const SampleSettings& s) {
    if (s.mode == kSampleBilinear && s.padding == kSampleZeros)  // constants, so that it vectorises
      place_as(g, n, size, {kSampleBilinear, kSampleZeros, s.align});
    else
      place_as(g, n, size, s);
  }

 private:
  inline __attribute__((always_inline)) void place_as(const acc_t* __restrict g, int64_t n, int size,
                                                      const SampleSettings s) {
    for (int64_t j = 0; j < n; ++j) {
      const SampleAxis<acc_t> axis = sample_axis(g[j], size, s);
      weight[0][j] = axis.weight[0];
      weight[1][j] = axis.weight[1];
      slope[0][j] = axis.slope[0];
      slope[1][j] = axis.slope[1];
      pixel[0][j] = axis.pixel[0];
      pixel[1][j] = axis.pixel[1];
      in[0][j] = axis.in[0];
      in[1][j] = axis.in[1];
    }
  }
};

// The four pixels of the positions of a block, and weights; 0 marks a pixel that is not read.
template <class acc_t>
struct Corners {
  Axes<acc_t> x, y;
  acc_t weight[4][kBlock];
  int32_t pixel[4][kBlock];

  // Positions `begin` to `begin + n` of an output [.., width]; `grid` and `along` are those of a sample.
  template <class G>
  void place(const SampleWork& work, const G* grid, int64_t begin, int64_t n) {
    acc_t both[2 * kBlock], gx[kBlock], gy[kBlock];
    if (work.affine) {
      load_block(grid, both, 6);
      int32_t rows[kBlock], columns[kBlock];
      int32_t row = int32_t(begin / work.out_width), column = int32_t(begin - int64_t(row) * work.out_width);
      for (int64_t j = 0; j < n; ++j) {
        rows[j] = row;
        columns[j] = column;
        const bool next = ++column == work.out_width;
        row += next;
        column = next ? 0 : column;
      }
      for (int64_t j = 0; j < n; ++j) {
        const acc_t u = sample_base<acc_t>(columns[j], work.out_width, work.settings.align);
        const acc_t v = sample_base<acc_t>(rows[j], work.out_height, work.settings.align);
        gx[j] = both[0] * u + both[1] * v + both[2];
        gy[j] = both[3] * u + both[4] * v + both[5];
      }
    } else {
      load_block(grid + 2 * begin, both, 2 * n);
      for (int64_t j = 0; j < n; ++j) {
        gx[j] = both[2 * j];
        gy[j] = both[2 * j + 1];
      }
    }
    x.place(gx, n, work.width, work.settings);
    y.place(gy, n, work.height, work.settings);
    for (int k = 0; k < 2; ++k)
      for (int i = 0; i < 2; ++i)
        for (int64_t j = 0; j < n; ++j) pixel[2 * k + i][j] = y.pixel[k][j] * work.width + x.pixel[i][j];
  }

  void weigh(int order, const acc_t* along, int64_t n) {
    for (int k = 0; k < 2; ++k)
      for (int i = 0; i < 2; ++i) {
        acc_t* __restrict w = weight[2 * k + i];
        const acc_t *wx = x.weight[i], *wy = y.weight[k], *dx = x.slope[i], *dy = y.slope[k];
        if (order == 0)
          for (int64_t j = 0; j < n; ++j) w[j] = wx[j] * wy[j];
        else if (order == 1)
          for (int64_t j = 0; j < n; ++j) w[j] = along[2 * j] * dx[j] * wy[j] + along[2 * j + 1] * wx[j] * dy[j];
        else
          for (int64_t j = 0; j < n; ++j) w[j] = along[j] * dx[j] * dy[j];
        for (int64_t j = 0; j < n; ++j) w[j] = x.in[i][j] & y.in[k][j] ? w[j] : acc_t(0);
      }
  }
};

template <class acc_t>
inline const acc_t* along_at(const SampleWork& work, const void* along, int64_t begin) {
  return along == nullptr ? nullptr : static_cast<const acc_t*>(along) + (work.order == 1 ? 2 : 1) * begin;
}

// Samples of an image at positions `begin` to `end`.
template <class T, class G, class acc_t>
void sample_piece(const SampleWork& work, const T* x, const G* grid, const acc_t* along, T* y, int64_t begin,
                  int64_t end) {
  Corners<acc_t> c;
  acc_t row[kBlock], buffer[kBlock];
  const int64_t channels = work.channels, pixels = int64_t(work.height) * work.width;
  const int64_t out_pixels = int64_t(work.out_height) * work.out_width;
  for (; begin < end; begin += kBlock) {
    const int64_t n = std::min(kBlock, end - begin);
    c.place(work, grid, begin, n);
    c.weigh(work.order, along_at<acc_t>(work, along, begin), n);
    if (!work.last) {
      for (int64_t k = 0; k < channels; ++k) {
        const T* __restrict plane = x + k * pixels;
        for (int64_t j = 0; j < n; ++j) {
          acc_t sum = 0;
          for (int i = 0; i < 4; ++i) {
            const acc_t w = c.weight[i][j], value = static_cast<acc_t>(plane[c.pixel[i][j]]);
            sum += w != acc_t(0) ? w * value : acc_t(0);
          }
          row[j] = sum;
        }
        store_block(row, y + k * out_pixels + begin, n);
      }
      continue;
    }
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < channels; k += kBlock) {
        const int64_t m = std::min(kBlock, channels - k);
        for (int64_t q = 0; q < m; ++q) row[q] = 0;
        for (int i = 0; i < 4; ++i) {
          const acc_t w = c.weight[i][j];
          if (w == acc_t(0)) continue;
          const acc_t* __restrict from = as_acc(x + c.pixel[i][j] * channels + k, buffer, m);
          for (int64_t q = 0; q < m; ++q) row[q] += w * from[q];
        }
        store_block(row, y + (begin + j) * channels + k, m);
      }
  }
}

// Adds the samples' gradients to gx, channels `first` to `last` of an image.
template <class T, class G, class acc_t>
void adjoint_piece(const SampleWork& work, const T* gy, const G* grid, const acc_t* along, acc_t* gx, int64_t first,
                   int64_t last) {
  constexpr int64_t kChannels = 4;
  Corners<acc_t> c;
  acc_t buffer[kBlock], rows[kChannels][kBlock];
  const int64_t channels = work.channels, pixels = int64_t(work.height) * work.width;
  const int64_t out_pixels = int64_t(work.out_height) * work.out_width;
  for (int64_t begin = 0; begin < out_pixels; begin += kBlock) {
    const int64_t n = std::min(kBlock, out_pixels - begin);
    c.place(work, grid, begin, n);
    c.weigh(work.order, along_at<acc_t>(work, along, begin), n);
    if (!work.last) {
      // Neighbours add to the same pixel, each after the other: channels in between fill the wait.
      for (int64_t k = first; k < last; k += kChannels) {
        const int64_t m = std::min(kChannels, last - k);
        for (int64_t q = 0; q < m; ++q) load_block(gy + (k + q) * out_pixels + begin, rows[q], n);
        acc_t* __restrict plane = gx + k * pixels;
        for (int64_t j = 0; j < n; ++j)
          for (int i = 0; i < 4; ++i) {
            const acc_t w = c.weight[i][j];
            if (w == acc_t(0)) continue;
            acc_t* __restrict to = plane + c.pixel[i][j];
            for (int64_t q = 0; q < m; ++q) to[q * pixels] += w * rows[q][j];
          }
      }
      continue;
    }
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = first; k < last; k += kBlock) {
        const int64_t m = std::min(kBlock, last - k);
        const acc_t* __restrict row = as_acc(gy + (begin + j) * channels + k, buffer, m);
        for (int i = 0; i < 4; ++i) {
          const acc_t w = c.weight[i][j];
          if (w == acc_t(0)) continue;
          acc_t* __restrict to = gx + c.pixel[i][j] * channels + k;
          for (int64_t q = 0; q < m; ++q) to[q] += w * row[q];
        }
      }
  }
}

// The derivatives of <gy, samples> in the grid at positions `begin` to `end`.
template <class T, class G, class acc_t>
void products_piece(const SampleWork& work, const T* gy, const T* x, const G* grid, acc_t* out, int64_t begin,
                    int64_t end) {
  Corners<acc_t> c;
  acc_t sum[4][kBlock], rows[kBlock], buffer[kBlock];
  const int64_t channels = work.channels, pixels = int64_t(work.height) * work.width;
  const int64_t out_pixels = int64_t(work.out_height) * work.out_width;
  for (; begin < end; begin += kBlock) {
    const int64_t n = std::min(kBlock, end - begin);
    c.place(work, grid, begin, n);
    for (int i = 0; i < 4; ++i)
      for (int64_t j = 0; j < n; ++j) sum[i][j] = 0;
    if (!work.last) {
      for (int64_t k = 0; k < channels; ++k) {
        const T* __restrict plane = x + k * pixels;
        const acc_t* __restrict row = as_acc(gy + k * out_pixels + begin, buffer, n);
        for (int i = 0; i < 4; ++i) {
          const int32_t *in_x = c.x.in[i % 2], *in_y = c.y.in[i / 2], *pixel = c.pixel[i];
          acc_t* __restrict to = sum[i];
          for (int64_t j = 0; j < n; ++j) {
            const acc_t product = row[j] * static_cast<acc_t>(plane[pixel[j]]);
            to[j] += in_x[j] & in_y[j] ? product : acc_t(0);
          }
        }
      }
    } else {
      for (int64_t j = 0; j < n; ++j)
        for (int64_t k = 0; k < channels; k += kBlock) {
          const int64_t m = std::min(kBlock, channels - k);
          const acc_t* __restrict row = as_acc(gy + (begin + j) * channels + k, buffer, m);
          for (int i = 0; i < 4; ++i) {
            if (!(c.x.in[i % 2][j] && c.y.in[i / 2][j])) continue;
            const acc_t* __restrict from = as_acc(x + c.pixel[i][j] * channels + k, rows, m);
            acc_t lane[16] = {};
            int64_t q = 0;
            for (; q + 16 <= m; q += 16)
              for (int t = 0; t < 16; ++t) lane[t] += row[q + t] * from[q + t];
            for (int t = 0; q < m; ++q, ++t) lane[t] += row[q] * from[q];
            for (int t = 0; t < 16; ++t) sum[i][j] += lane[t];
          }
        }
    }
    for (int64_t j = 0; j < n; ++j) {
      acc_t dx = 0, dy = 0, mixed = 0;
      for (int i = 0; i < 4; ++i) {
        const int a = i % 2, b = i / 2;
        dx += c.x.slope[a][j] * c.y.weight[b][j] * sum[i][j];
        dy += c.x.weight[a][j] * c.y.slope[b][j] * sum[i][j];
        mixed += c.x.slope[a][j] * c.y.slope[b][j] * sum[i][j];
      }
      if (work.order == 2) {
        out[begin + j] = mixed;
      } else {
        out[2 * (begin + j)] = dx;
        out[2 * (begin + j) + 1] = dy;
      }
    }
  }
}
