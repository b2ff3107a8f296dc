// A direct convolution for the shapes at which blocked-by-channel libraries are slow: few output channels, and strided
// transposed convolutions of large images, which run here phase by phase, so that no zero is multiplied.
//
// Work is cut into tiles of rows of one sample. A tile's source rows are copied once into a padded scratch, split by
// the stride (a strided convolution) so that every tap reads consecutive samples; a transposed convolution splits its
// output by the stride instead. Rows are then taken end to end as one long row: the columns between them are computed
// and dropped.
#pragma once
#include <utility>
#include <vector>

#include "cpu/conv2d.h"

namespace gk::conv {

constexpr int64_t kBlock = 6;   // output channels of one pass, as conv_rows takes
constexpr int64_t kSlack = 16;  // floats: a pass reads and writes whole vectors

// One axis. Output sample q * out_phases + phase sums source samples q * in_phases + shift over the taps of that phase.
struct Axis {
  struct Tap {
    int64_t index, phase, start;  // of the filter; of the source; of the source's row, from the first that is read
  };
  int64_t in_phases, out_phases, quotas, first, span;
  std::vector<std::vector<Tap>> taps;  // [out phase]

  Axis(int64_t stride, int64_t padding, int64_t dilation, int64_t kernel, int64_t out, bool transposed);
};

// One output phase: for each channel and tap that reach it, its place in the scratch and in an image read where it
// lies; and the weights in the order of the pass: [group][block][channel][tap][kBlock or the rest].
struct Phase {
  std::vector<int64_t> offsets, in_place;
  std::vector<float> weight;
};

struct Direct {
  const Geometry& g;
  const bool transposed;
  const int64_t h, w, in_channels, out_channels, height, width;  // of a group
  const Axis rows, cols;
  int64_t tile = 1, tiles = 1, pitch, phase_size, plane;  // rows of a tile; floats of a scratch row, phase, channel
  std::vector<Phase> phases;

  Direct(const at::Tensor& x, const at::Tensor& weight, const Geometry& g, at::IntArrayRef size, bool transposed);

  int64_t source_size() const { return in_channels * plane + pitch + kSlack; }
  int64_t sums_pitch() const { return tile * pitch + kSlack; }
  int64_t sums_size() const { return cols.out_phases * kBlock * sums_pitch(); }

  // The source rows of `count` rows at q0 of `image`, a group's first channel.
  struct Source {
    const float* at;
    bool in_place;
  };
  Source gather(const float* image, int64_t q0, int64_t count, float* scratch) const;
  // The sums of `block` channels from `o` of a group on, of those rows of phase py.
  void sum(const Source& from, int64_t group, int64_t o, int64_t block, int64_t py, int64_t count, float* sums) const;
  // Those of channel o + j, all phases of columns woven, plus `add`, to every rows.out_phases-th row of `to`.
  void write(const float* sums, int64_t j, float add, int64_t lines, float* to) const;
  // Rows of phase py that an image has of `count` at q0.
  int64_t lines(int64_t py, int64_t q0, int64_t count) const;

 private:
  int64_t row_pitch() const;
  Phase pack(const at::Tensor& weight, const std::vector<Axis::Tap>& down, const std::vector<Axis::Tap>& across) const;
  void read(const float* image, int64_t q0, int64_t count, float* to) const;
  static std::pair<int64_t, int64_t> inside(const Axis& axis, int64_t extent, int64_t phase, int64_t at, int64_t count);
  bool reads_in_place(int64_t count) const;
};

}  // namespace gk::conv
