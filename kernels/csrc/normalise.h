// One patch of packed RGB bytes to three planes of normalised floats.
#pragma once

#include <cstdint>

#include "simd.h"

namespace pixelis {

// Values come out as (byte - mean) / std per channel; mean and std are in units of a byte.
struct Normalisation {
  float mean[3];
  float std[3];
};

// plane_stride: floats from one channel's plane to the next.
void normalise_patch(SimdLevel level, const uint8_t* in, int64_t in_row_bytes, int patch_size,
                     const Normalisation& normalisation, float* out, int64_t plane_stride);

}  // namespace pixelis
