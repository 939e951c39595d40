// Products of all pairs on AVX-512.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pairs_kernels.h"

#if PIXELIS_X86

#define PIXELIS_LANES 16
#define PIXELIS_PAIR_ROWS 4
#define PIXELIS_LANE_TARGET PIXELIS_TARGET_AVX512

namespace pixelis {
namespace avx512 {
namespace {

#include "pairs_body.h"

}  // namespace

const PairKernels& pair_kernels() { return kPairKernels; }

}  // namespace avx512
}  // namespace pixelis
#endif
