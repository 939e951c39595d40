// Large buffers in large pages.
#pragma once

#include <cstdint>

namespace pixelis {

// Memory that is about to be written for the first time, in pages of 2 MB where the system grants
// them: entering 300 MB page by page of 4 KB takes as long as a matrix product.
void prefer_huge_pages(void* memory, int64_t bytes);

}  // namespace pixelis
