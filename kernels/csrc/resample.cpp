#include "resample.h"

#include <algorithm>
#include <cstring>

namespace pixelis {
namespace {

// Rows that share one pass over the horizontal weights. More would collide in the first-level
// cache when rows are a power of two apart.
constexpr int kRowBlock = 4;

}  // namespace

ResizePlan::ResizePlan(Filter filter, Rounding rounding, int in_height, int in_width,
                       int out_height, int out_width, SimdLevel level)
    : horizontal(make_coefficients(filter, rounding, in_width, out_width), level),
      vertical(make_coefficients(filter, rounding, in_height, out_height), level) {}

RowStream::RowStream(const ResizePlan& plan, const FrameView& frame)
    : plan_(plan),
      frame_(frame),
      held_row_bytes_(int64_t{plan.horizontal.coefficients().out_size} * 3 + kRowSlack),
      copies_(kRowBlock * (int64_t{frame.width} * 3 + plan.horizontal.read_slack())) {}

void RowStream::read(int begin, int end, uint8_t* out, int64_t out_row_bytes) {
  const Coefficients& table = plan_.vertical.coefficients();
  const int num_bytes = plan_.horizontal.coefficients().out_size * 3;
  hold_rows(table.start[begin], table.start[end - 1] + table.count[end - 1]);
  // Vector code takes taps four at a time: spare ones get zero weights and a row that exists.
  std::vector<const uint8_t*> rows(table.max_taps + 3);
  for (int y = begin; y < end; ++y, out += out_row_bytes) {
    if (table.is_identity()) {
      std::memcpy(out, held_row(y), num_bytes);
      continue;
    }
    const int last = table.count[y] - 1;
    for (int tap = 0; tap <= last + 3; ++tap) {
      rows[tap] = held_row(table.start[y] + std::min(tap, last));
    }
    plan_.vertical.run(y, rows.data(), num_bytes, out);
  }
}

// Keeps what the window already holds of [begin, end) and computes the rest.
void RowStream::hold_rows(int begin, int end) {
  if (plan_.horizontal.coefficients().is_identity()) return;
  const bool overlaps = begin >= held_begin_ && begin < held_end_;
  const int kept_end = overlaps ? std::min(held_end_, end) : begin;
  if (overlaps && begin > held_begin_) {
    std::memmove(held_.data(), held_.data() + (begin - held_begin_) * held_row_bytes_,
                 (kept_end - begin) * held_row_bytes_);
  }
  const size_t needed = (end - begin) * held_row_bytes_;
  if (held_.size() < needed) held_.resize(needed);
  held_begin_ = begin;
  held_end_ = end;
  fill_rows(kept_end, end);
}

void RowStream::fill_rows(int begin, int end) {
  const int64_t copy_bytes = copies_.size() / kRowBlock;
  for (int y = begin; y < end; y += kRowBlock) {
    const uint8_t* in[kRowBlock];
    uint8_t* out[kRowBlock];
    const int num_rows = std::min(kRowBlock, end - y);
    for (int row = 0; row < num_rows; ++row) {
      in[row] = readable_row(y + row, copies_.data() + row * copy_bytes);
      out[row] = held_.data() + (y + row - held_begin_) * held_row_bytes_;
    }
    plan_.horizontal.run(in, out, num_rows);
  }
}

const uint8_t* RowStream::held_row(int y) const {
  if (plan_.horizontal.coefficients().is_identity()) return frame_.pixels + y * frame_.row_bytes;
  return held_.data() + (y - held_begin_) * held_row_bytes_;
}

// The row itself, or a copy with room behind it where vector loads would leave the image.
const uint8_t* RowStream::readable_row(int y, uint8_t* copy) const {
  const uint8_t* row = frame_.pixels + y * frame_.row_bytes;
  const int64_t bytes_to_end = (frame_.height - 1 - y) * frame_.row_bytes;
  if (bytes_to_end >= plan_.horizontal.read_slack()) return row;
  std::memcpy(copy, row, int64_t{frame_.width} * 3);
  return copy;
}

}  // namespace pixelis
