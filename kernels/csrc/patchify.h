// Frames to the vision tower's input in one pass: bicubic resize, (x / 255 - mean) / std, patches
// in Qwen order. A frame is never held as floats; only a band of one patch row is held as bytes.
#pragma once

#include <array>
#include <cstdint>

#include "resample.h"

namespace pixelis {

struct PatchLayout {
  int height;  // of the resized frame, a multiple of patch_size * merge_size
  int width;
  int patch_size;
  int temporal_patch_size;
  int merge_size;
  std::array<float, 3> mean;
  std::array<float, 3> std;

  int rows() const { return height / patch_size; }
  int columns() const { return width / patch_size; }
  int64_t values_per_patch() const {
    return int64_t{3} * temporal_patch_size * patch_size * patch_size;
  }
  int groups(int num_frames) const {
    return (num_frames + temporal_patch_size - 1) / temporal_patch_size;
  }
};

void check_layout(const PatchLayout& layout);

// first: the first of num_frames frames, frame_bytes apart; the last one is repeated to fill the
// last temporal group. out: [groups * rows * columns, values_per_patch], ordered
// (group, row / merge, column / merge, row in merge, column in merge) x (channel, time, y, x).
void patchify(const FrameView& first, int num_frames, int64_t frame_bytes,
              const PatchLayout& layout, int threads, SimdLevel level, float* out);

}  // namespace pixelis
