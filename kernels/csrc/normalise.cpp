#include "normalise.h"

namespace pixelis {
namespace {

PIXELIS_INLINE void normalise_rows(const uint8_t* in, int64_t in_row_bytes, int patch_size,
                                   const Normalisation& n, float* out, int64_t plane_stride) {
  for (int y = 0; y < patch_size; ++y, in += in_row_bytes, out += patch_size) {
    for (int x = 0; x < patch_size; ++x) {
      out[x] = (static_cast<float>(in[3 * x]) - n.mean[0]) / n.std[0];
      out[plane_stride + x] = (static_cast<float>(in[3 * x + 1]) - n.mean[1]) / n.std[1];
      out[2 * plane_stride + x] = (static_cast<float>(in[3 * x + 2]) - n.mean[2]) / n.std[2];
    }
  }
}

// A constant patch size lets the compiler keep a row in registers; 16 and 14 are Qwen's.
PIXELIS_INLINE void normalise_body(const uint8_t* in, int64_t in_row_bytes, int patch_size,
                                   const Normalisation& n, float* out, int64_t plane_stride) {
  if (patch_size == 16) return normalise_rows(in, in_row_bytes, 16, n, out, plane_stride);
  if (patch_size == 14) return normalise_rows(in, in_row_bytes, 14, n, out, plane_stride);
  normalise_rows(in, in_row_bytes, patch_size, n, out, plane_stride);
}

#if PIXELIS_X86
PIXELIS_TARGET_AVX512 void normalise_avx512(const uint8_t* in, int64_t in_row_bytes, int patch_size,
                                            const Normalisation& n, float* out,
                                            int64_t plane_stride) {
  normalise_body(in, in_row_bytes, patch_size, n, out, plane_stride);
}

PIXELIS_TARGET_AVX2 void normalise_avx2(const uint8_t* in, int64_t in_row_bytes, int patch_size,
                                        const Normalisation& n, float* out, int64_t plane_stride) {
  normalise_body(in, in_row_bytes, patch_size, n, out, plane_stride);
}
#endif

}  // namespace

void normalise_patch(SimdLevel level, const uint8_t* in, int64_t in_row_bytes, int patch_size,
                     const Normalisation& n, float* out, int64_t plane_stride) {
#if PIXELIS_X86
  if (level == SimdLevel::kAvx512) {
    return normalise_avx512(in, in_row_bytes, patch_size, n, out, plane_stride);
  }
  if (level == SimdLevel::kAvx2) {
    return normalise_avx2(in, in_row_bytes, patch_size, n, out, plane_stride);
  }
#endif
  normalise_body(in, in_row_bytes, patch_size, n, out, plane_stride);
}

}  // namespace pixelis
