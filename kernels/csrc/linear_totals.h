// Adds the blocks' sums in the order of the vocabulary, in double, and turns them into statistics.
#pragma once

#include <vector>

#include "linear_forward.h"
#include "linear_operands.h"

namespace pixelis {

class Totals {
 public:
  Totals(const TargetLogits& targets, int64_t tokens, bool has_reference);

  // sums[kNumBlockSums, stride]
  void add(const float* sums, int64_t stride);
  void finish(int64_t vocabulary, const StatisticsView& out) const;

 private:
  // One token's sums against `anchor`; see BlockSum.
  struct Token {
    double anchor, others, weighted, logit;
    double reference_anchor, ratio, excess, far, reference;
  };

  static void add_reference(Token& token, const float* sums, int64_t stride, double scale);
  void finish_token(int64_t i, int64_t vocabulary, const StatisticsView& out) const;

  const TargetLogits& targets_;
  std::vector<Token> tokens_;
  bool has_reference_;
};

}  // namespace pixelis
