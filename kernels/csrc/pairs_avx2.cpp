// Products of all pairs on AVX2 and FMA.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pairs_kernels.h"

#if PIXELIS_X86

#define PIXELIS_LANES 8
#define PIXELIS_PAIR_ROWS 2
#define PIXELIS_LANE_TARGET PIXELIS_TARGET_FMA

namespace pixelis {
namespace avx2 {
namespace {

#include "pairs_body.h"

}  // namespace

const PairKernels& pair_kernels() { return kPairKernels; }

}  // namespace avx2
}  // namespace pixelis
#endif
