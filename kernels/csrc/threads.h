// Splits [0, count) into contiguous ranges, one per thread; the caller's thread takes the first.
#pragma once

#include <functional>

namespace pixelis {

// An exception thrown in any range is thrown here after all threads have ended.
void parallel_ranges(int count, int threads, const std::function<void(int begin, int end)>& work);

}  // namespace pixelis
