#include "horizontal.h"

#include <algorithm>
#include <utility>

namespace pixelis {
namespace {

void horizontal_baseline(const Coefficients& table, const uint8_t* in, uint8_t* out) {
  const auto clip = [&](int32_t sum) {
    return static_cast<uint8_t>(std::clamp(sum >> table.fraction_bits, 0, 255));
  };
  for (int pixel = 0; pixel < table.out_size; ++pixel, out += 3) {
    const int32_t* weight = table.weights_of(pixel);
    const uint8_t* taps = in + table.start[pixel] * 3;
    int32_t red = table.half(), green = table.half(), blue = table.half();
    for (int tap = 0; tap < table.count[pixel]; ++tap, taps += 3) {
      red += taps[0] * weight[tap];
      green += taps[1] * weight[tap];
      blue += taps[2] * weight[tap];
    }
    out[0] = clip(red);
    out[1] = clip(green);
    out[2] = clip(blue);
  }
}

std::vector<int> padded_starts(const Coefficients& table, int group) {
  std::vector<int> start((table.out_size + group - 1) / group * group, 0);
  for (int pixel = 0; pixel < table.out_size; ++pixel) start[pixel] = table.start[pixel] * 3;
  return start;
}

}  // namespace

HorizontalPass::HorizontalPass(Coefficients coefficients, SimdLevel level)
    : coefficients_(std::move(coefficients)), level_(level) {
  if (level_ == SimdLevel::kBaseline || coefficients_.is_identity()) return;
  const std::vector<int>& counts = coefficients_.count;
  const int most = *std::max_element(counts.begin(), counts.end());
  const int num_quads = (most + kTapsPerQuad - 1) / kTapsPerQuad;
  read_slack_ = num_quads * kTapsPerQuad * 3 + 16;
  if (level_ == SimdLevel::kAvx512) {
    start_ = padded_starts(coefficients_, kAvx512Pixels);
    avx512_weights_ = pack_avx512_weights(coefficients_, num_quads);
  } else {
    start_ = padded_starts(coefficients_, kAvx2Pixels);
    avx2_weights_ = pack_avx2_weights(coefficients_, num_quads);
  }
}

void HorizontalPass::run(const uint8_t* const* in, uint8_t* const* out, int num_rows) const {
#if PIXELIS_X86
  const HorizontalRows rows{
      start_.data(), coefficients_.out_size, coefficients_.fraction_bits, in, out, num_rows};
  if (level_ == SimdLevel::kAvx512) return horizontal_avx512(rows, avx512_weights_);
  if (level_ == SimdLevel::kAvx2) return horizontal_avx2(rows, avx2_weights_);
#endif
  for (int row = 0; row < num_rows; ++row) horizontal_baseline(coefficients_, in[row], out[row]);
}

}  // namespace pixelis
