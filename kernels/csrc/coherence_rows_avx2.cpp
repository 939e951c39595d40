// Whole rows with AVX2.
#include <cstdint>
#include <cstring>

#include "coherence_rows.h"

#if PIXELIS_X86
#pragma GCC optimize("fp-contract=off")
#pragma GCC target("avx2")
#define PIXELIS_VECTOR_BYTES 32
#include "coherence_rows_body.h"

namespace pixelis {

RowFunctions avx2_row_functions(Element element) { return functions_for(element); }

}  // namespace pixelis
#endif
