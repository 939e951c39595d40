// The horizontal pass: rows of packed RGB in, narrower or wider rows of packed RGB out.
#pragma once

#include <cstdint>
#include <vector>

#include "coefficients.h"
#include "horizontal_simd.h"
#include "simd.h"

namespace pixelis {

// Vector code may touch this many bytes behind the end of an output row.
constexpr int kRowSlack = 16;

class HorizontalPass {
 public:
  HorizontalPass(Coefficients coefficients, SimdLevel level);

  // in[r] must be readable for in_size * 3 + read_slack() bytes,
  // out[r] writable for out_size * 3 + kRowSlack bytes.
  void run(const uint8_t* const* in, uint8_t* const* out, int num_rows) const;
  int read_slack() const { return read_slack_; }
  const Coefficients& coefficients() const { return coefficients_; }

 private:
  Coefficients coefficients_;
  SimdLevel level_;
  int read_slack_ = 0;
  std::vector<int> start_;  // first input byte per output pixel, padded to a group of pixels
  Avx512Weights avx512_weights_;
  Avx2Weights avx2_weights_;
};

}  // namespace pixelis
