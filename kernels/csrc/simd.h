// Which instruction set runs: decided once from the CPU, so that one binary serves old and new
// ones. Every level computes the same integers; a caller may force a lower one to compare.
#pragma once

#include <string>
#include <vector>

#if defined(__x86_64__)
#define PIXELIS_X86 1
#define PIXELIS_TARGET_AVX2 __attribute__((target("avx2")))
#define PIXELIS_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))
#else
#define PIXELIS_X86 0
#endif
#define PIXELIS_INLINE inline __attribute__((always_inline))

namespace pixelis {

enum class SimdLevel { kBaseline, kAvx2, kAvx512 };

// Lowest first; the last one is the best this CPU has.
std::vector<SimdLevel> available_simd_levels();
SimdLevel best_simd_level();
const char* simd_level_name(SimdLevel level);
SimdLevel parse_simd_level(const std::string& name);

}  // namespace pixelis
