#include <algorithm>
#include <cmath>
#include <cstring>

#include "linear_kernels.h"

#define PIXELIS_LANES 4
#define PIXELIS_ROWS 6
#define PIXELIS_LANE_TARGET

namespace pixelis {
namespace baseline {
namespace {

#include "linear_lanes.h"
// After the lanes it is written in.
#include "linear_block.h"

}  // namespace

const LinearKernels& kernels() { return kKernels; }

}  // namespace baseline
}  // namespace pixelis
