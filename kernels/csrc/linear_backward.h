// Gradients of hidden states and weight from per-token coefficients, slice by slice.
#pragma once

#include "linear_problem.h"

namespace pixelis {

// Each [tokens]; the coefficients are those of linear_loss/coefficients.py.
struct CoefficientsView {
  const float* logprobs;
  const float* constant;
  const float* logit;
  const float* delta;
  const float* target;
  const float* uniform;
  bool plain;  // logit, delta and uniform are 0 and there is no softcap
};

// Outputs in the dtype of the inputs, null where not needed.
struct GradientOutputs {
  void* hidden;  // [tokens, width]
  void* weight;  // [vocabulary, width]
};

// The reference is used if delta is: plain gradients never compute its logits.
void linear_backward(const LinearProblem& problem, const StoredLogits& stored,
                     const CoefficientsView& coefficients, const GradientOutputs& out);

}  // namespace pixelis
