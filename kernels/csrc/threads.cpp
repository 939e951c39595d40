#include "threads.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "check.h"

namespace pixelis {

void parallel_ranges(int count, int threads, const std::function<void(int, int)>& work) {
  PIXELIS_CHECK(threads >= 1, "threads: expected at least 1, got " << threads);
  const int parts = std::min(threads, count);
  if (parts <= 1) {
    work(0, count);
    return;
  }
  std::vector<std::exception_ptr> errors(parts);
  const auto run_part = [&](int part) {
    try {
      work(static_cast<int>(int64_t{count} * part / parts),
           static_cast<int>(int64_t{count} * (part + 1) / parts));
    } catch (...) {
      errors[part] = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  for (int part = 1; part < parts; ++part) workers.emplace_back(run_part, part);
  run_part(0);
  for (std::thread& worker : workers) worker.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace pixelis
