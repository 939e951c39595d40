// Matrix products on AMX tiles.
#pragma once

#include <memory>

#include "linear_product.h"

namespace pixelis {

#if PIXELIS_X86
std::unique_ptr<Product> make_amx_product(bool is_bfloat16);
#endif

}  // namespace pixelis
