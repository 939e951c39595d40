// Per-token statistics of softmax(hidden · weightᵀ), block by block.
#pragma once

#include "linear_problem.h"

namespace pixelis {

// Each [tokens].
struct StatisticsView {
  float* logprob;
  float* lse;
  float* entropy;
  float* mean_logit;
  float* kl;
  float* log_ratio;
  float* reference_lse;
  float* target_logits;  // what backward needs again
  float* shifts;
};

// Fills `stored`; the fields of a reference are 0 without one.
void linear_forward(const LinearProblem& problem, const StoredLogits& stored,
                    const StatisticsView& out);

}  // namespace pixelis
