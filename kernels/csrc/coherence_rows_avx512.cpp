// Whole rows with AVX-512.
#include <cstdint>
#include <cstring>

#include "coherence_rows.h"

#if PIXELIS_X86
#pragma GCC optimize("fp-contract=off")
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define PIXELIS_VECTOR_BYTES 64
#include "coherence_rows_body.h"

namespace pixelis {

RowFunctions avx512_row_functions(Element element) { return functions_for(element); }

}  // namespace pixelis
#endif
