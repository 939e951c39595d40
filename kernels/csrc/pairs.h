// All pairs of queries and keys by cosine, a block of keys at a time: nearest keys and votes.
//
// Products accumulate in float32 in an order that one pair's width decides and nothing else; they
// are scaled by both norms afterwards. So a query's result depends neither on the queries beside it
// nor on the threads.
#pragma once

#include <cstdint>

#include "linear_level.h"

namespace pixelis {

// Packed rows of floats or bfloat16 bits, row_bytes apart.
struct PairRows {
  const char* name;
  const char* values;
  int64_t rows;
  int64_t width;
  int64_t row_bytes;
  bool is_bfloat16;
};

// Query i sees key j if all hold; a null pointer holds.
struct PairMask {
  const bool* valid;     // valid[j]
  const int64_t* first;  // first[i] <= j
  const int64_t* last;   // j < last[i]
  bool excludes_self;    // i != j
};

// Key j gives answers[j] the share weights[j] · max(similarity - floor, 0).
struct PairBallot {
  const int64_t* answers;
  const float* weights;  // null: 1
  int64_t num_answers;
  float floor;
};

struct PairProblem {
  PairRows queries;
  PairRows keys;
  PairMask mask;
  LinearLevel level;
  int threads;
};

// similarity and index (queries, k): most similar first, equal ones by index; -inf and -1 where
// there are fewer than k. A row that is not finite is an error.
void pairs_top_k(const PairProblem& problem, int k, float* similarity, int64_t* index);

// votes (queries, num_answers).
void pairs_vote(const PairProblem& problem, const PairBallot& ballot, float* votes);

}  // namespace pixelis
