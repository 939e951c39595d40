#include "linear_kernels.h"

namespace pixelis {

namespace baseline {
const LinearKernels& kernels();
}
#if PIXELIS_X86
namespace avx2 {
const LinearKernels& kernels();
}
namespace avx512 {
const LinearKernels& kernels();
}
#endif

const LinearKernels& linear_kernels(LinearLevel level) {
#if PIXELIS_X86
  if (level >= LinearLevel::kAvx512) return avx512::kernels();
  if (level == LinearLevel::kAvx2) return avx2::kernels();
#endif
  static_cast<void>(level);
  return baseline::kernels();
}

}  // namespace pixelis
