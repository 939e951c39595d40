// Fixed-point weights as digits that fit the 8 and 16 bit multipliers. Digits are balanced
// (between -base / 2 and base / 2 - 1), so sums of digit products recombine exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pixelis {

struct DigitFormat {
  int count;
  int bits;  // base = 1 << bits
};

// The lowest digit of value; value keeps the rest.
inline int take_digit(int32_t& value, int bits) {
  const int base = 1 << bits;
  int digit = value & (base - 1);
  if (digit >= base / 2) digit -= base;
  value = (value - digit) / base;
  return digit;
}

// Bytes: the largest number with two digits in [-128, 127] is 127 * 256 + 127.
inline DigitFormat byte_digits(const std::vector<int32_t>& weights) {
  const auto [least, most] = std::minmax_element(weights.begin(), weights.end());
  return {*least >= -32768 && *most <= 32639 ? 2 : 3, 8};
}

// Words: one digit when the weights are 16-bit themselves, else two of 12 bits.
inline DigitFormat word_digits(const std::vector<int32_t>& weights) {
  const auto [least, most] = std::minmax_element(weights.begin(), weights.end());
  return *least >= -32768 && *most <= 32767 ? DigitFormat{1, 16} : DigitFormat{2, 12};
}

}  // namespace pixelis
