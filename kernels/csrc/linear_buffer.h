// Uninitialised memory on cache-line boundaries.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace pixelis {

template <typename Value>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) {
    if (count == 0) return;
    constexpr int64_t kLine = 64;
    const int64_t bytes = (count * int64_t{sizeof(Value)} + kLine - 1) / kLine * kLine;
    memory_.reset(static_cast<Value*>(std::aligned_alloc(kLine, static_cast<size_t>(bytes))));
    if (!memory_) throw std::bad_alloc();
  }
  Value* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(Value* memory) const { std::free(memory); }
  };
  std::unique_ptr<Value[], Free> memory_;
};

}  // namespace pixelis
