// Items of work that threads take from a shared counter: a slow thread takes fewer. Each item
// writes its own memory, so the results do not depend on who takes which.
#pragma once

#include <atomic>
#include <cstdint>

#include "threads.h"

namespace pixelis {

// work(thread, item) for every item.
template <typename Work>
void for_each_item(int64_t items, int threads, const Work& work) {
  const int used = static_cast<int>(items < threads ? items : threads);
  if (used == 0) return;
  std::atomic<int64_t> next{0};
  parallel_ranges(used, used, [&](int thread, int) {
    for (int64_t item = next++; item < items; item = next++) work(thread, item);
  });
}

}  // namespace pixelis
