#include "digits.h"
#include "horizontal_simd.h"

namespace pixelis {
namespace {

constexpr int kChannelLanes = 4;  // R, G, B and one that is dropped

int32_t weight_or_zero(const Coefficients& coefficients, int pixel, int tap) {
  const bool is_used = pixel < coefficients.out_size && tap < coefficients.max_taps;
  return is_used ? coefficients.weights_of(pixel)[tap] : 0;
}

int64_t groups_of(const Coefficients& coefficients, int pixels) {
  return (coefficients.out_size + pixels - 1) / pixels;
}

}  // namespace

Avx512Weights pack_avx512_weights(const Coefficients& coefficients, int num_quads) {
  const DigitFormat format = byte_digits(coefficients.weight);
  const int64_t groups = groups_of(coefficients, kAvx512Pixels);
  Avx512Weights packed{std::vector<int8_t>(groups * num_quads * format.count * 64), num_quads,
                       format.count};
  for (int pixel = 0; pixel < groups * kAvx512Pixels; ++pixel) {
    for (int tap = 0; tap < num_quads * kTapsPerQuad; ++tap) {
      const int64_t quad = int64_t{pixel / kAvx512Pixels} * num_quads + tap / kTapsPerQuad;
      int32_t rest = weight_or_zero(coefficients, pixel, tap);
      for (int digit = 0; digit < format.count; ++digit) {
        int8_t* lane =
            &packed.values[(quad * format.count + digit) * 64 + pixel % kAvx512Pixels * 16];
        const int value = take_digit(rest, format.bits);
        for (int channel = 0; channel < kChannelLanes; ++channel) {
          lane[channel * kTapsPerQuad + tap % kTapsPerQuad] = static_cast<int8_t>(value);
        }
      }
    }
  }
  return packed;
}

Avx2Weights pack_avx2_weights(const Coefficients& coefficients, int num_quads) {
  const DigitFormat format = word_digits(coefficients.weight);
  const int64_t groups = groups_of(coefficients, kAvx2Pixels);
  Avx2Weights packed{std::vector<int16_t>(groups * num_quads * 2 * format.count * 16), num_quads,
                     format.count};
  for (int pixel = 0; pixel < groups * kAvx2Pixels; ++pixel) {
    for (int tap = 0; tap < num_quads * kTapsPerQuad; ++tap) {
      const int64_t half = int64_t{pixel / kAvx2Pixels} * num_quads * 2 + tap / 2;
      int32_t rest = weight_or_zero(coefficients, pixel, tap);
      for (int digit = 0; digit < format.count; ++digit) {
        int16_t* lane =
            &packed.values[(half * format.count + digit) * 16 + pixel % kAvx2Pixels * 8];
        const int value = take_digit(rest, format.bits);
        for (int channel = 0; channel < kChannelLanes; ++channel) {
          lane[channel * 2 + tap % 2] = static_cast<int16_t>(value);
        }
      }
    }
  }
  return packed;
}

}  // namespace pixelis
