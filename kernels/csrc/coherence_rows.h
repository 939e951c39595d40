// What coherence does with whole rows, one table of functions per instruction set and element.
#pragma once

#include <cstdint>

#include "simd.h"

namespace pixelis {

enum class Element { kFloat32, kBfloat16 };

constexpr int element_bytes(Element element) { return element == Element::kFloat32 ? 4 : 2; }

struct Blend {
  const char* rows[3];
  float factors[3];
};

// columns is a multiple of 8.
struct RowFunctions {
  // Sums of a * b and of b * b.
  void (*dot_and_square)(const char* a, const char* b, int columns, float* dot, float* square);
  // out = sum of rows[i] * factors[i], rounded to the element.
  void (*blend)(const Blend& blend, int columns, char* out);
  // sums += sum of count rows that lie row_bytes apart.
  void (*add_rows)(const char* rows, int64_t row_bytes, int count, int columns, float* sums);
  // out = row * factor, rounded to the element.
  void (*scale)(const float* row, float factor, int columns, char* out);
};

RowFunctions row_functions(SimdLevel level, Element element);

#if PIXELIS_X86
RowFunctions avx2_row_functions(Element element);
RowFunctions avx512_row_functions(Element element);
#endif

}  // namespace pixelis
