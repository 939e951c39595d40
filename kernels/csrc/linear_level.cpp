#include "linear_level.h"

#include <algorithm>

#include "check.h"

#if PIXELIS_X86
#include <cpuid.h>
#endif
#if PIXELIS_X86 && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pixelis {
namespace {

#if PIXELIS_X86
bool is_amx_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kBf16 = 1U << 22, kTile = 1U << 24;
  if ((edx & kBf16) == 0 || (edx & kTile) == 0) return false;
  return is_amx_granted();
}
#endif

std::vector<LinearLevel> find_levels() {
  std::vector<LinearLevel> levels{LinearLevel::kBaseline};
#if PIXELIS_X86
  const std::vector<SimdLevel> simd = available_simd_levels();
  const auto has = [&](SimdLevel level) {
    return std::find(simd.begin(), simd.end(), level) != simd.end();
  };
  if (!has(SimdLevel::kAvx2) || !__builtin_cpu_supports("fma")) return levels;
  levels.push_back(LinearLevel::kAvx2);
  if (!has(SimdLevel::kAvx512)) return levels;
  levels.push_back(LinearLevel::kAvx512);
  if (!__builtin_cpu_supports("avx512bf16")) return levels;
  levels.push_back(LinearLevel::kAvx512Bf16);
  if (has_amx()) levels.push_back(LinearLevel::kAmx);
#endif
  return levels;
}

}  // namespace

const std::vector<LinearLevel>& available_linear_levels() {
  static const std::vector<LinearLevel> levels = find_levels();
  return levels;
}

const char* linear_level_name(LinearLevel level) {
  switch (level) {
    case LinearLevel::kAmx:
      return "amx";
    case LinearLevel::kAvx512Bf16:
      return "avx512bf16";
    case LinearLevel::kAvx512:
      return "avx512";
    case LinearLevel::kAvx2:
      return "avx2";
    case LinearLevel::kBaseline:
      break;
  }
  return "baseline";
}

LinearLevel parse_linear_level(const std::string& name) {
  std::string known;
  for (const LinearLevel level : available_linear_levels()) {
    if (name == linear_level_name(level)) return level;
    known += known.empty() ? "" : ", ";
    known += linear_level_name(level);
  }
  PIXELIS_CHECK(false, "simd: expected one of " << known << ", got " << name);
  return LinearLevel::kBaseline;
}

}  // namespace pixelis
