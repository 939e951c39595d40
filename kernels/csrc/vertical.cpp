#include "vertical.h"

#include <algorithm>
#include <utility>

#include "vertical_simd.h"

namespace pixelis {
namespace {

int taps_at_once(SimdLevel level) { return level == SimdLevel::kAvx512 ? 4 : 2; }

void vertical_baseline(const Coefficients& table, int y, const uint8_t* const* rows, int num_bytes,
                       uint8_t* out) {
  const int32_t* weights = table.weights_of(y);
  constexpr int kStrip = 256;
  int32_t sums[kStrip];
  for (int offset = 0; offset < num_bytes; offset += kStrip) {
    const int n = std::min(kStrip, num_bytes - offset);
    std::fill(sums, sums + n, table.half());
    for (int tap = 0; tap < table.count[y]; ++tap) {
      const uint8_t* row = rows[tap] + offset;
      for (int i = 0; i < n; ++i) sums[i] += weights[tap] * row[i];
    }
    for (int i = 0; i < n; ++i) {
      out[offset + i] = static_cast<uint8_t>(std::clamp(sums[i] >> table.fraction_bits, 0, 255));
    }
  }
}

// Digits of the taps of one group side by side in 32 bits, the first tap lowest.
int32_t packed_digit(const int32_t* weights, int num_taps, int group_taps, int digit, int bits) {
  const int lane_bits = 32 / group_taps;
  uint32_t packed = 0;
  for (int tap = 0; tap < std::min(num_taps, group_taps); ++tap) {
    int32_t rest = weights[tap];
    int value = 0;
    for (int i = 0; i <= digit; ++i) value = take_digit(rest, bits);
    const uint32_t lane = static_cast<uint32_t>(value) & ((1U << lane_bits) - 1);
    packed |= lane << (tap * lane_bits);
  }
  return static_cast<int32_t>(packed);
}

}  // namespace

VerticalPass::VerticalPass(Coefficients coefficients, SimdLevel level)
    : coefficients_(std::move(coefficients)), level_(level) {
  if (level_ == SimdLevel::kBaseline || coefficients_.is_identity()) return;
  const std::vector<int32_t>& weights = coefficients_.weight;
  format_ = level_ == SimdLevel::kAvx512 ? byte_digits(weights) : word_digits(weights);
  const int group_taps = taps_at_once(level_);
  num_groups_ = (coefficients_.max_taps + group_taps - 1) / group_taps;
  for (int y = 0; y < coefficients_.out_size; ++y) {
    for (int tap = 0; tap < num_groups_ * group_taps; tap += group_taps) {
      const int left = std::max(coefficients_.count[y] - tap, 0);
      for (int digit = 0; digit < format_.count; ++digit) {
        packed_.push_back(
            packed_digit(coefficients_.weights_of(y) + tap, left, group_taps, digit, format_.bits));
      }
    }
  }
}

void VerticalPass::run(int y, const uint8_t* const* rows, int num_bytes, uint8_t* out) const {
#if PIXELIS_X86
  const int group_taps = taps_at_once(level_);
  const int used_groups = (coefficients_.count[y] + group_taps - 1) / group_taps;
  const VerticalRow row{rows,
                        packed_.data() + int64_t{y} * num_groups_ * format_.count,
                        used_groups,
                        format_.count,
                        coefficients_.fraction_bits,
                        num_bytes,
                        out};
  if (level_ == SimdLevel::kAvx512) return vertical_avx512(row);
  if (level_ == SimdLevel::kAvx2 && num_bytes >= kAvx2Block) return vertical_avx2(row);
#endif
  vertical_baseline(coefficients_, y, rows, num_bytes, out);
}

}  // namespace pixelis
