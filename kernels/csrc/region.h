// What a mask covers, measured in one pass over mask and image with integer sums.
#pragma once

#include <array>
#include <cstdint>

#include "simd.h"

namespace pixelis {

struct RegionView {
  const uint8_t* mask;  // [height, width], non-zero is inside
  int64_t mask_row_bytes;
  const uint8_t* image;  // [height, width, 3]
  int64_t image_row_bytes;
  int height;
  int width;
};

struct Region {
  int64_t area;
  std::array<int, 4> box;  // x0, y0, x1, y1; x1 and y1 are exclusive
  double centroid_x;       // the first pixel's centre is 0
  double centroid_y;
  std::array<double, 3> mean_rgb;
  double orientation_deg;  // of the major axis to the x axis, (-90, 90], counter-clockwise as seen
  double elongation;       // major / minor axis of the ellipse with the same second moments
};

Region region_properties(const RegionView& view, SimdLevel level);

}  // namespace pixelis
