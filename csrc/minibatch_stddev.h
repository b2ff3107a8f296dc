// Where the elements of minibatch_stddev's tensors lie: what its CPU and CUDA kernels share.
//
// x is [group][lots] samples; a sample is [channels] parts of `count` elements, and y has one plane more for each part.
// With d = x - mean and s = sqrt(mean(d^2) + eps) over the group, and r = mean(s) over a part:
// value: r; first derivative: gx = gy + (sum of gy's planes) / (count group) d / s; second, of <v, gx>: for gy the
// planes mean(q / s), q = mean(v d) over the group, and for x, with w = v - mean(v),
// (sum of gy's planes) / (count group) (w / s - q d / s^3).
#pragma once

namespace gk {

constexpr double kStddevEps = 1e-8;

struct StddevLayout {
  long long group, lots, channels, count;
  long long run;                                              // elements of a part that lie together
  long long x_sample, x_part, x_run;                          // strides in x: of samples, parts, runs
  long long y_sample, y_part, y_run;                          // the same in y
  long long first_plane, plane_stride, pixel_stride, pixels;  // planes in a sample of y

#ifndef __CUDACC_RTC__
  static StddevLayout of(long long samples, long long c, long long pixels, long long group, long long channels,
                         bool channels_last) {
    const long long part = c / channels, wide = c + channels;
    StddevLayout l = {};
    l.group = group;
    l.lots = samples / group;
    l.channels = channels;
    l.count = part * pixels;
    l.run = channels_last ? part : part * pixels;
    l.x_sample = c * pixels;
    l.y_sample = wide * pixels;
    l.x_part = l.y_part = l.run;
    l.x_run = channels_last ? c : 0;
    l.y_run = channels_last ? wide : 0;
    l.first_plane = channels_last ? c : c * pixels;
    l.plane_stride = channels_last ? 1 : pixels;
    l.pixel_stride = channels_last ? wide : 1;
    l.pixels = pixels;
    return l;
  }
#endif
};

}  // namespace gk
