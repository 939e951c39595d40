// The vertical pass: one output row is a weighted sum of a few input rows, byte by byte.
#pragma once

#include <cstdint>
#include <vector>

#include "coefficients.h"
#include "digits.h"
#include "simd.h"

namespace pixelis {

class VerticalPass {
 public:
  VerticalPass(Coefficients coefficients, SimdLevel level);

  // rows[t] is input row start[y] + t, for t up to the next multiple of four beyond the last tap
  // any readable row; all are num_bytes long, and so is out.
  void run(int y, const uint8_t* const* rows, int num_bytes, uint8_t* out) const;
  const Coefficients& coefficients() const { return coefficients_; }

 private:
  Coefficients coefficients_;
  SimdLevel level_;
  DigitFormat format_{0, 0};
  int num_groups_ = 0;           // of taps multiplied at once: four at AVX-512, two at AVX2
  std::vector<int32_t> packed_;  // [out, groups, digits], four bytes or two words each
};

}  // namespace pixelis
