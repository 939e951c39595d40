// Which instruction set the linear statistics run on: those of simd.h, above them AVX-512's
// products of bfloat16, and AMX where the kernel grants a process its tiles. Decided once; a caller
// may force a lower one to compare.
#pragma once

#include <string>
#include <vector>

#include "simd.h"

#if PIXELIS_X86
#define PIXELIS_TARGET_FMA __attribute__((target("avx2,fma")))
#define PIXELIS_TARGET_BF16 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")))
#define PIXELIS_TARGET_AMX                                                     \
  __attribute__((                                                              \
      target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16" \
             ",prefer-vector-width=512")))
#endif

namespace pixelis {

enum class LinearLevel { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// Lowest first. Asks the operating system for AMX tiles at the first call: without its permission
// the level is not there.
const std::vector<LinearLevel>& available_linear_levels();
const char* linear_level_name(LinearLevel level);
LinearLevel parse_linear_level(const std::string& name);

}  // namespace pixelis
