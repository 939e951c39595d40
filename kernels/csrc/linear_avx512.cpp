#include <algorithm>
#include <cmath>
#include <cstring>

#include "linear_kernels.h"

#if PIXELIS_X86

#define PIXELIS_LANES 16
#define PIXELIS_ROWS 12
#define PIXELIS_LANE_TARGET PIXELIS_TARGET_AVX512

namespace pixelis {
namespace avx512 {
namespace {

#include "linear_lanes.h"
// After the lanes it is written in.
#include "linear_block.h"

}  // namespace

const LinearKernels& kernels() { return kKernels; }

}  // namespace avx512
}  // namespace pixelis
#endif
