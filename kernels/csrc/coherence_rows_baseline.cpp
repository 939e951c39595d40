// Whole rows with what every CPU of the architecture has, and the choice between the levels.
#include <cstdint>
#include <cstring>

#include "coherence_rows.h"

// One rounding more or less per product is what tells the levels apart: none fuses.
#pragma GCC optimize("fp-contract=off")
#define PIXELIS_VECTOR_BYTES 16
#include "coherence_rows_body.h"

namespace pixelis {

RowFunctions row_functions(SimdLevel level, Element element) {
#if PIXELIS_X86
  if (level == SimdLevel::kAvx512) return avx512_row_functions(element);
  if (level == SimdLevel::kAvx2) return avx2_row_functions(element);
#else
  (void)level;
#endif
  return functions_for(element);
}

}  // namespace pixelis
