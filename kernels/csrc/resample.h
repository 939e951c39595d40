// Streams the rows of one resized frame, top to bottom, through a small window of rows that have
// been through the horizontal pass. Knows no output layout: resize and patchify both read from it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coefficients.h"
#include "horizontal.h"
#include "simd.h"
#include "vertical.h"

namespace pixelis {

// Packed RGB rows; row_bytes may be larger than width * 3 (a crop of a larger image).
struct FrameView {
  const uint8_t* pixels;
  int height;
  int width;
  int64_t row_bytes;
};

struct ResizePlan {
  ResizePlan(Filter filter, Rounding rounding, int in_height, int in_width, int out_height,
             int out_width, SimdLevel level);

  HorizontalPass horizontal;
  VerticalPass vertical;
};

class RowStream {
 public:
  RowStream(const ResizePlan& plan, const FrameView& frame);

  // Writes output rows [begin, end); cheapest when begin continues where the last call ended.
  void read(int begin, int end, uint8_t* out, int64_t out_row_bytes);

 private:
  void hold_rows(int begin, int end);
  void fill_rows(int begin, int end);
  const uint8_t* held_row(int y) const;
  const uint8_t* readable_row(int y, uint8_t* copy) const;

  const ResizePlan& plan_;
  FrameView frame_;
  int64_t held_row_bytes_;
  int held_begin_ = 0;  // input rows [held_begin_, held_end_) are in held_
  int held_end_ = 0;
  std::vector<uint8_t> held_;
  std::vector<uint8_t> copies_;  // source rows too near the end of the image for vector loads
};

}  // namespace pixelis
