#include "resize.h"

#include <algorithm>

#include "threads.h"

namespace pixelis {
namespace {

constexpr int kRowsPerRead = 16;

}  // namespace

void resize(const FrameView& frame, Filter filter, int out_height, int out_width, int threads,
            SimdLevel level, uint8_t* out) {
  const ResizePlan plan(filter, Rounding::kPillow, frame.height, frame.width, out_height, out_width,
                        level);
  const int64_t row_bytes = int64_t{out_width} * 3;
  parallel_ranges(out_height, threads, [&](int begin, int end) {
    RowStream stream(plan, frame);
    for (int y = begin; y < end; y += kRowsPerRead) {
      stream.read(y, std::min(y + kRowsPerRead, end), out + y * row_bytes, row_bytes);
    }
  });
}

}  // namespace pixelis
