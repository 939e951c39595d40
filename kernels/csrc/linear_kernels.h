// The inner loops of the linear statistics as one table per instruction set.
#pragma once

#include <cstdint>

#include "linear_problem.h"

namespace pixelis {

// Logits of a block, tokens across lanes; tokens is a multiple of kTile.
struct BlockView {
  float* logits;     // [rows, stride]
  float* reference;  // [rows, reference_stride], null without one; forward leaves the deltas there
  int64_t stride;
  int64_t reference_stride;
  int rows;
  int64_t first_row;  // vocabulary id of the first
  int tokens;
};

// One number per token of the block, each array `tokens` long.
struct TokenView {
  const int64_t* targets;  // -1 beyond the last token
  const float* target_logits;
  const float* shifts;  // target_logits minus the reference's
};

struct GradientView {
  const float* logprobs;
  const float* constant;
  const float* logit;
  const float* delta;
  const float* target;
  const float* uniform;
  float scale;
  float softcap;
  bool plain;
  float* out;  // [rows, out_stride]
  int64_t out_stride;
};

// c[m, n] (+)= sum_k a[m, k] b[k, n]; a by rows, b packed in panels of panel_columns.
struct FloatProduct {
  const float* a;
  int64_t a_stride;
  int rows;
  const float* b;
  int64_t b_panel_stride;
  int64_t k;
  int panels;
  float* c;
  int64_t c_stride;
  bool accumulate;
};

struct LinearKernels {
  int panel_columns;
  // logits = softcap · tanh(logits / softcap) · scale, in place.
  void (*transform)(float* logits, int64_t stride, int rows, int columns, float scale,
                    float softcap);
  // sums[kNumBlockSums, sums_stride] of the block; the reference's logits become deltas.
  void (*block_sums)(const BlockView&, const TokenView&, float* sums, int64_t sums_stride);
  // The reference's logits become deltas, as block_sums leaves them.
  void (*deltas)(const BlockView&, const float* shifts);
  // out = gradient of hidden · weight. `reference` holds deltas here.
  void (*block_gradient)(const BlockView&, const TokenView&, const GradientView&);
  void (*multiply)(const FloatProduct&);
  void (*widen)(const uint16_t* bfloat16, int64_t count, float* out);
  void (*narrow)(const float* values, int64_t count, uint16_t* bfloat16);
};

const LinearKernels& linear_kernels(LinearLevel level);

}  // namespace pixelis
