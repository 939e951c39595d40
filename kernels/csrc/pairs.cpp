#include "pairs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "check.h"
#include "pairs_kernels.h"
#include "threads.h"

namespace pixelis {

const PairKernels& pair_kernels(LinearLevel level, bool is_bfloat16) {
#if PIXELIS_X86
  switch (level) {
    case LinearLevel::kAmx:
      return is_bfloat16 ? amx::pair_kernels() : avx512::pair_kernels();
    case LinearLevel::kAvx512Bf16:
      return is_bfloat16 ? bf16::pair_kernels() : avx512::pair_kernels();
    case LinearLevel::kAvx512:
      return avx512::pair_kernels();
    case LinearLevel::kAvx2:
      return avx2::pair_kernels();
    case LinearLevel::kBaseline:
      break;
  }
#else
  (void)level, (void)is_bfloat16;
#endif
  return baseline::pair_kernels();
}

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kNormFloor = 1e-12f;

struct Range {
  int64_t begin;
  int64_t end;
};

class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes) : storage_(new char[bytes + 64]()) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.get());
    data_ = storage_.get() + (64 - address % 64);
  }
  char* data() const { return data_; }

 private:
  std::unique_ptr<char[]> storage_;
  char* data_;
};

// Up to `capacity` rows of one side, padded, and one over each norm.
class PackedRows {
 public:
  PackedRows(const PairKernels& kernels, const PairRows& rows, int capacity)
      : kernels_(kernels),
        rows_(rows),
        padded_((rows.width + kernels.width_multiple - 1) / kernels.width_multiple *
                kernels.width_multiple),
        row_bytes_(padded_ * (kernels.packs_bfloat16 ? 2 : 4)),
        bytes_(row_bytes_ * capacity),
        scale_(capacity) {}

  void pack(int64_t row, int at) {
    const char* from = rows_.values + row * rows_.row_bytes;
    const float squares = kernels_.pack(from, rows_.is_bfloat16, rows_.width, padded_,
                                        bytes_.data() + at * row_bytes_);
    PIXELIS_CHECK(std::isfinite(squares),
                  rows_.name << ": expected rows with a finite norm, got another in row " << row);
    scale_[at] = 1.0f / std::max(std::sqrt(squares), kNormFloor);
  }

  const char* data() const { return bytes_.data(); }
  const float* scale() const { return scale_.data(); }
  int64_t padded() const { return padded_; }
  int64_t row_bytes() const { return row_bytes_; }

 private:
  const PairKernels& kernels_;
  const PairRows& rows_;
  int64_t padded_;
  int64_t row_bytes_;
  AlignedBytes bytes_;
  std::vector<float> scale_;
};

// Keys of one range against queries of another, block by block in rising order.
class Walk {
 public:
  explicit Walk(const PairProblem& problem)
      : problem_(problem),
        kernels_(pair_kernels(problem.level, problem.queries.is_bfloat16)),
        queries_(kernels_, problem.queries, kPairQueries),
        keys_(kernels_, problem.keys, kPairKeys),
        reordered_(kernels_.reorder != nullptr ? queries_.row_bytes() * kPairQueries : 0),
        products_(sizeof(float) * kPairKeys * kPairQueries) {}

  const PairKernels& kernels() const { return kernels_; }
  const float* query_scale() const { return queries_.scale(); }

  // visit(key, scale of the key, products with the queries); unseen pairs are -inf.
  template <typename Visit>
  void run(Range queries, Range keys, const Visit& visit) {
    const int count = static_cast<int>(queries.end - queries.begin);
    for (int i = 0; i < count; ++i) queries_.pack(queries.begin + i, i);
    const void* packed = queries_.data();
    if (kernels_.reorder != nullptr) {
      kernels_.reorder(queries_.data(), queries_.padded(), reordered_.data());
      packed = reordered_.data();
    }
    float* products = reinterpret_cast<float*>(products_.data());
    keys = seen_keys(queries, keys);
    int64_t next = keys.begin;
    while (next < keys.end) {
      int64_t block[kPairKeys];
      const int filled = fill(&next, keys.end, block);
      if (filled == 0) break;
      kernels_.products(packed, keys_.data(), queries_.padded(), count, products);
      for (int j = 0; j < filled; ++j) {
        float* row = products + j * kPairQueries;
        hide(queries, block[j], row);
        visit(block[j], keys_.scale()[j], row);
      }
    }
  }

 private:
  // Packs the next valid keys.
  int fill(int64_t* next, int64_t end, int64_t* block) {
    int filled = 0;
    for (; *next < end && filled < kPairKeys; ++*next) {
      if (problem_.mask.valid != nullptr && !problem_.mask.valid[*next]) continue;
      keys_.pack(*next, filled);
      block[filled++] = *next;
    }
    return filled;
  }

  // Keys that one of the queries may see.
  Range seen_keys(Range queries, Range keys) const {
    const PairMask& mask = problem_.mask;
    if (mask.first == nullptr) return keys;
    const int64_t first = *std::min_element(mask.first + queries.begin, mask.first + queries.end);
    const int64_t last = *std::max_element(mask.last + queries.begin, mask.last + queries.end);
    return {std::max(keys.begin, first), std::min(keys.end, last)};
  }

  void hide(Range queries, int64_t key, float* row) const {
    const PairMask& mask = problem_.mask;
    if (mask.first != nullptr) {
      for (int64_t i = queries.begin; i < queries.end; ++i) {
        if (key < mask.first[i] || key >= mask.last[i]) row[i - queries.begin] = kNothing;
      }
    }
    if (mask.excludes_self && key >= queries.begin && key < queries.end) {
      row[key - queries.begin] = kNothing;
    }
  }

  const PairProblem& problem_;
  const PairKernels& kernels_;
  PackedRows queries_;
  PackedRows keys_;
  AlignedBytes reordered_;
  AlignedBytes products_;
};

// The k best keys of one query so far, best first; keys come in rising order.
struct Ranking {
  float* similarity;
  int64_t* index;
  int k;

  void enter(float value, int64_t key) const {
    int place = k - 1;
    for (; place > 0 && similarity[place - 1] < value; --place) {
      similarity[place] = similarity[place - 1];
      index[place] = index[place - 1];
    }
    similarity[place] = value;
    index[place] = key;
  }
};

// Fills (queries, k) from one range of keys.
void rank_keys(const PairProblem& problem, Range queries, Range keys, int k, float* similarity,
               int64_t* index) {
  std::fill_n(similarity + queries.begin * k, (queries.end - queries.begin) * k, kNothing);
  std::fill_n(index + queries.begin * k, (queries.end - queries.begin) * k, int64_t{-1});
  Walk walk(problem);
  for (int64_t begin = queries.begin; begin < queries.end; begin += kPairQueries) {
    const Range group{begin, std::min<int64_t>(begin + kPairQueries, queries.end)};
    float threshold[kPairQueries];
    std::fill_n(threshold, kPairQueries, kNothing);
    walk.run(group, keys, [&](int64_t key, float scale, float* row) {
      int above[kPairQueries];
      const int count = walk.kernels().exceeding(row, walk.query_scale(), scale, threshold,
                                                 static_cast<int>(group.end - begin), above);
      for (int at = 0; at < count; ++at) {
        const int i = above[at];
        const Ranking ranking{similarity + (begin + i) * k, index + (begin + i) * k, k};
        ranking.enter(row[i], key);
        threshold[i] = ranking.similarity[k - 1];
      }
    });
  }
}

// One list of k per part, of rising ranges of keys -> the best k of them all in the first.
void merge_parts(int64_t queries, int k, int parts, float* similarity, int64_t* index,
                 const std::vector<float>& others, const std::vector<int64_t>& other_index) {
  for (int64_t i = 0; i < queries; ++i) {
    const Ranking ranking{similarity + i * k, index + i * k, k};
    for (int part = 1; part < parts; ++part) {
      const int64_t from = ((part - 1) * queries + i) * k;
      for (int place = 0; place < k; ++place) {
        const float value = others[from + place];
        if (value > ranking.similarity[k - 1]) ranking.enter(value, other_index[from + place]);
      }
    }
  }
}

}  // namespace

void pairs_top_k(const PairProblem& problem, int k, float* similarity, int64_t* index) {
  const int64_t queries = problem.queries.rows, keys = problem.keys.rows;
  if (queries == 0) return;
  if (queries >= int64_t{kPairQueries} * problem.threads) {
    parallel_ranges(static_cast<int>(queries), problem.threads, [&](int begin, int end) {
      rank_keys(problem, {begin, end}, {0, keys}, k, similarity, index);
    });
    return;
  }
  const int parts =
      static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(problem.threads, keys / kPairKeys)));
  std::vector<float> others((parts - 1) * queries * k);
  std::vector<int64_t> other_index(others.size());
  parallel_ranges(parts, parts, [&](int part, int) {
    const Range range{keys * part / parts, keys * (part + 1) / parts};
    const int64_t at = (part - 1) * queries * k;
    rank_keys(problem, {0, queries}, range, k, part == 0 ? similarity : others.data() + at,
              part == 0 ? index : other_index.data() + at);
  });
  merge_parts(queries, k, parts, similarity, index, others, other_index);
}

void pairs_vote(const PairProblem& problem, const PairBallot& ballot, float* votes) {
  const int64_t queries = problem.queries.rows;
  if (queries == 0) return;
  parallel_ranges(static_cast<int>(queries), problem.threads, [&](int first, int last) {
    Walk walk(problem);
    std::vector<float> sums(ballot.num_answers * kPairQueries);
    for (int64_t begin = first; begin < last; begin += kPairQueries) {
      const Range group{begin, std::min<int64_t>(begin + kPairQueries, last)};
      const int count = static_cast<int>(group.end - begin);
      std::fill(sums.begin(), sums.end(), 0.0f);
      walk.run(group, {0, problem.keys.rows}, [&](int64_t key, float scale, const float* row) {
        const float weight = ballot.weights == nullptr ? 1.0f : ballot.weights[key];
        walk.kernels().add_shares(row, walk.query_scale(), scale, ballot.floor, weight, count,
                                  sums.data() + ballot.answers[key] * kPairQueries);
      });
      for (int i = 0; i < count; ++i) {
        float* out = votes + (begin + i) * ballot.num_answers;
        for (int64_t a = 0; a < ballot.num_answers; ++a) out[a] = sums[a * kPairQueries + i];
      }
    }
  });
}

}  // namespace pixelis
