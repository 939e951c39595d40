// Antialiased resize of packed RGB.
#pragma once

#include "resample.h"

namespace pixelis {

// out: [out_height, out_width, 3], packed.
void resize(const FrameView& frame, Filter filter, int out_height, int out_width, int threads,
            SimdLevel level, uint8_t* out);

}  // namespace pixelis
