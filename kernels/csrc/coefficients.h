// Antialiased resampling weights along one axis, in fixed point: pixel centres at +0.5, a filter
// widened by the reduction factor, weights normalised in double and then rounded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pixelis {

enum class Filter { kBox, kBilinear, kBicubic, kLanczos };

// Two libraries, two roundings of the same weights; each is matched bit for bit.
enum class Rounding {
  kPillow,  // 22 fractional bits (Pillow's Resample.c)
  kTorch,   // as many as keep the largest weight below 2^15 (PyTorch's uint8 resize, torchvision's)
};

Filter parse_filter(const std::string& name);

struct Coefficients {
  int in_size = 0;
  int out_size = 0;
  int max_taps = 0;
  int fraction_bits = 0;
  std::vector<int> start;       // [out_size] first input index
  std::vector<int> count;       // [out_size] inputs used
  std::vector<int32_t> weight;  // [out_size, max_taps], zero behind count

  // Equal sizes mean weights of exactly one: the axis needs no pass.
  bool is_identity() const { return in_size == out_size; }
  int32_t half() const { return 1 << (fraction_bits - 1); }
  const int32_t* weights_of(int i) const { return weight.data() + int64_t{i} * max_taps; }
};

Coefficients make_coefficients(Filter filter, Rounding rounding, int in_size, int out_size);

}  // namespace pixelis
