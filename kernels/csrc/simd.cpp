#include "simd.h"

#include "check.h"

namespace pixelis {

std::vector<SimdLevel> available_simd_levels() {
  std::vector<SimdLevel> levels{SimdLevel::kBaseline};
#if PIXELIS_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2")) return levels;
  levels.push_back(SimdLevel::kAvx2);
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  if (has_avx512) levels.push_back(SimdLevel::kAvx512);
#endif
  return levels;
}

SimdLevel best_simd_level() {
  static const SimdLevel best = available_simd_levels().back();
  return best;
}

const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::kAvx512:
      return "avx512";
    case SimdLevel::kAvx2:
      return "avx2";
    case SimdLevel::kBaseline:
      break;
  }
  return "baseline";
}

SimdLevel parse_simd_level(const std::string& name) {
  std::string known;
  for (const SimdLevel level : available_simd_levels()) {
    if (name == simd_level_name(level)) return level;
    known += known.empty() ? "" : ", ";
    known += simd_level_name(level);
  }
  PIXELIS_CHECK(false, "simd: expected one of " << known << ", got " << name);
  return SimdLevel::kBaseline;
}

}  // namespace pixelis
