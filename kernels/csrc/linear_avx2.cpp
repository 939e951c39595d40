#include <algorithm>
#include <cmath>
#include <cstring>

#include "linear_kernels.h"

#if PIXELIS_X86

#define PIXELIS_LANES 8
#define PIXELIS_ROWS 6
#define PIXELIS_LANE_TARGET PIXELIS_TARGET_FMA

namespace pixelis {
namespace avx2 {
namespace {

#include "linear_lanes.h"
// After the lanes it is written in.
#include "linear_block.h"

}  // namespace

const LinearKernels& kernels() { return kKernels; }

}  // namespace avx2
}  // namespace pixelis
#endif
