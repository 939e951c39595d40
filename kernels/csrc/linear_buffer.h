// Uninitialised memory on cache-line boundaries, in large pages where it is large: products walk
// many rows at once, and 4 KB pages of 8 MB are more than a core translates without waiting.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "huge_pages.h"

namespace pixelis {

template <typename Value>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) {
    if (count == 0) return;
    constexpr int64_t kLine = 64, kPage = int64_t{1} << 21;
    const int64_t size = count * int64_t{sizeof(Value)};
    const int64_t unit = size >= kPage ? kPage : kLine;
    const int64_t bytes = (size + unit - 1) / unit * unit;
    memory_.reset(static_cast<Value*>(
        std::aligned_alloc(static_cast<size_t>(unit), static_cast<size_t>(bytes))));
    if (!memory_) throw std::bad_alloc();
    prefer_huge_pages(memory_.get(), bytes);
  }
  Value* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(Value* memory) const { std::free(memory); }
  };
  std::unique_ptr<Value[], Free> memory_;
};

}  // namespace pixelis
