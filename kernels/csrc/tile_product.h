// Matrix products of operands cut into tiles.
#pragma once

#include <memory>

#include "linear_product.h"
#include "tiles.h"

namespace pixelis {

#if PIXELIS_X86
// Of logits' operands in `planes` and the gradients' in `gradient_planes`.
std::unique_ptr<Product> make_tile_product(MultiplyTiles multiply, int planes, int gradient_planes);
#endif

}  // namespace pixelis
