// How blocks lie over images [samples, outer, inner] in memory: threads along packs of the inner axis and along the
// outer one, which a block walks along.
#pragma once
#include "launch.h"

#ifndef __CUDACC_RTC__
#include <algorithm>
#endif

namespace gk {

constexpr int kWalkThreads = 256, kWalkLanes = 32;

#ifndef __CUDACC_RTC__

struct Sizes {
  i64 samples, outer, inner;
};

struct WalkPlan {
  i64 pack, lanes, tall, rows, outer_blocks, inner_blocks;

  // `most` elements a thread, where they divide the inner axis; `least` rows a block, where there are as many.
  WalkPlan(const Sizes& s, i64 most, i64 least = 1) {
    constexpr i64 kBlocks = 512;    // blocks that fill a large GPU
    constexpr i64 kMostSteps = 16;  // rows of threads that a block walks along
    pack = s.inner % most == 0 ? most : 1;
    lanes = 1;
    while (lanes < kWalkLanes && lanes < s.inner / pack) lanes *= 2;
    tall = kWalkThreads / lanes;
    inner_blocks = ceil_div(s.inner, lanes * pack);
    const i64 steps = ceil_div(s.outer, tall);
    const i64 filling = std::min({steps, kMostSteps, s.samples * inner_blocks * steps / kBlocks});
    rows = tall * std::max<i64>(filling, std::min(steps, ceil_div(least, tall)));
    outer_blocks = ceil_div(s.outer, rows);
  }
};

#endif

}  // namespace gk
