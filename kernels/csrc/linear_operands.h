// What forward and backward share: packed hidden states, the logits of a block, the target's
// logits.
#pragma once

#include <memory>
#include <vector>

#include "linear_buffer.h"
#include "linear_kernels.h"
#include "linear_problem.h"
#include "linear_product.h"

namespace pixelis {

// One head ready to give logits.
class PackedHead {
 public:
  PackedHead(const Product& product, const LinearHead& head, int threads);

  // Loads vocabulary rows into `left`, left_bytes() long.
  void load(const int64_t* row_ids, int rows, void* left) const;
  // Raw logits of the loaded rows for tokens [begin, end), tokens across.
  void logits(const void* left, int rows, int64_t begin, int64_t end, float* out, int64_t stride,
              Ahead ahead = {nullptr, 0}) const;
  // A block's rows from `first` on, as far as there are any: what a thread loads next.
  Ahead block_at(int64_t first) const;
  int64_t left_bytes() const;
  const LinearHead& head() const { return head_; }

 private:
  const Product& product_;
  const LinearHead& head_;
  Buffer<char> hidden_;
};

// Per token, padded to a multiple of kTile with zeros.
struct TargetLogits {
  std::vector<int64_t> targets;  // -1 beyond the last token
  std::vector<float> logits;     // scaled and capped; the same bits as a block's
  std::vector<float> shifts;     // minus the reference's; 0 without one
};

TargetLogits target_logits(const LinearProblem& problem, const PackedHead& policy,
                           const PackedHead* reference);

// Row ids first, first + 1, … of a block.
std::vector<int64_t> row_range(int64_t first, int64_t count);

}  // namespace pixelis
