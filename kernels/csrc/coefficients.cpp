#include "coefficients.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace pixelis {
namespace {

constexpr double kPi = 3.14159265358979323846;

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

// Keys' cubic convolution (1981) with a = -0.5, as two polynomials in |x|.
double bicubic(double x) {
  x = std::abs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0;
  return 0.0;
}

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * kPi) / (x * kPi); }

double lanczos3(double x) { return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

struct Kernel {
  double (*value)(double);
  double support;
};

Kernel kernel_of(Filter filter) {
  switch (filter) {
    case Filter::kBox:
      return {box, 0.5};
    case Filter::kBilinear:
      return {bilinear, 1.0};
    case Filter::kBicubic:
      return {bicubic, 2.0};
    case Filter::kLanczos:
      break;
  }
  return {lanczos3, 3.0};
}

int32_t to_fixed(double weight, int fraction_bits) {
  return static_cast<int32_t>(weight * (1 << fraction_bits) + (weight < 0.0 ? -0.5 : 0.5));
}

constexpr int kPillowBits = 22;

int fraction_bits_of(Rounding rounding, const std::vector<double>& weights) {
  if (rounding == Rounding::kPillow) return kPillowBits;
  const double largest = *std::max_element(weights.begin(), weights.end());
  int bits = 0;
  while (bits < kPillowBits && to_fixed(largest, bits + 1) < (1 << 15)) ++bits;
  return bits;
}

}  // namespace

Filter parse_filter(const std::string& name) {
  if (name == "box") return Filter::kBox;
  if (name == "bilinear") return Filter::kBilinear;
  if (name == "bicubic") return Filter::kBicubic;
  PIXELIS_CHECK(name == "lanczos",
                "filter: expected box, bilinear, bicubic or lanczos, got " << name);
  return Filter::kLanczos;
}

Coefficients make_coefficients(Filter filter, Rounding rounding, int in_size, int out_size) {
  PIXELIS_CHECK(in_size >= 1, "input size: expected at least 1, got " << in_size);
  PIXELIS_CHECK(out_size >= 1, "output size: expected at least 1, got " << out_size);
  const Kernel kernel = kernel_of(filter);
  const double scale = static_cast<double>(in_size) / out_size;
  const double widening = std::max(scale, 1.0);
  const double support = kernel.support * widening;

  Coefficients table;
  table.in_size = in_size;
  table.out_size = out_size;
  table.max_taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  std::vector<double> exact(int64_t{out_size} * table.max_taps, 0.0);
  for (int i = 0; i < out_size; ++i) {
    const double center = (i + 0.5) * scale;
    const int begin = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), in_size);
    double* weights = exact.data() + int64_t{i} * table.max_taps;
    double total = 0.0;
    for (int tap = 0; tap < end - begin; ++tap) {
      weights[tap] = kernel.value((tap + begin - center + 0.5) * (1.0 / widening));
      total += weights[tap];
    }
    if (total != 0.0) {
      for (int tap = 0; tap < end - begin; ++tap) weights[tap] /= total;
    }
    table.start.push_back(begin);
    table.count.push_back(end - begin);
  }
  table.fraction_bits = fraction_bits_of(rounding, exact);
  for (const double weight : exact) table.weight.push_back(to_fixed(weight, table.fraction_bits));
  return table;
}

}  // namespace pixelis
