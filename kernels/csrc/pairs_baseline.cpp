// Products of all pairs on every CPU.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pairs_kernels.h"

#define PIXELIS_LANES 4
#define PIXELIS_PAIR_ROWS 2
#define PIXELIS_LANE_TARGET

namespace pixelis {
namespace baseline {
namespace {

#include "pairs_body.h"

}  // namespace

const PairKernels& pair_kernels() { return kPairKernels; }

}  // namespace baseline
}  // namespace pixelis
