#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "check.h"
#include "linear_buffer.h"
#include "linear_level.h"
#include "linear_work.h"
#include "tile_pack.h"

namespace pixelis {

bool has_tile_attention() {
#if PIXELIS_X86
  return available_linear_levels().back() >= LinearLevel::kAvx512Bf16;
#else
  return false;
#endif
}

}  // namespace pixelis

#if PIXELIS_X86
#include "intrinsics.h"

namespace pixelis {
namespace {

#define PIXELIS_LANES 16
#define PIXELIS_LANE_TARGET PIXELIS_TARGET_BF16
#include "linear_lanes.h"

constexpr int kQueries = 128;  // of a block: with its scores and its keys half of a 2 MB cache
constexpr int kKeys = 512;
constexpr int kPanels = kQueries / kTile;
constexpr float kHidden = -1e30f;  // exp() of it is 0; minus infinity minus itself is no number

// Keys and values as right operands, once for all queries.
struct Bank {
  Bank(const AttentionProblem& problem, int threads)
      : padded_keys(padded(problem.num_keys)),
        keys_memory(tile_bytes(1, padded_keys / kTile, problem.width)),
        values_memory(tile_bytes(1, padded(problem.value_width) / kTile, padded_keys)),
        bias(static_cast<size_t>(padded_keys), 0.0f),
        keys(tile_matrix(keys_memory.data(), 1, problem.width)),
        values(tile_matrix(values_memory.data(), 1, padded_keys)) {
    if (problem.bias) std::copy(problem.bias, problem.bias + problem.num_keys, bias.begin());
    std::fill(bias.begin() + problem.num_keys, bias.end(), kHidden);
    const Matrix key_rows{problem.keys, problem.num_keys, problem.width, true};
    const Matrix value_rows{problem.values, problem.num_keys, problem.value_width, true};
    for_each_item(padded_keys / kTile, threads, [&](int, int64_t panel) {
      const int64_t begin = panel * kTile;
      const int64_t end = std::min<int64_t>(begin + kTile, problem.num_keys);
      tile_transposed(key_rows, begin, end, keys);
      tile_right(value_rows, 0, begin, end, values);
    });
  }

  int64_t padded_keys;
  Buffer<char> keys_memory;
  Buffer<char> values_memory;
  std::vector<float> bias;
  TileMatrix keys;
  TileMatrix values;
};

struct Scratch {
  explicit Scratch(const AttentionProblem& problem)
      : queries(tile_bytes(1, kPanels, problem.width)),
        chances(tile_bytes(1, kPanels, kKeys)),
        scores(kQueries * padded_stride(kKeys)),
        sums(kQueries * padded_stride(problem.value_width)) {}

  Buffer<char> queries;
  Buffer<char> chances;
  Buffer<float> scores;
  Buffer<float> sums;  // of values, weighted by exp(score - largest)
  float largest[kQueries];
  float total[kQueries];
};

PIXELIS_TARGET_BF16 float largest_of(Lanes lanes) { return _mm512_reduce_max_ps((__m512)lanes); }

PIXELIS_TARGET_BF16 float sum_of(Lanes lanes) { return _mm512_reduce_add_ps((__m512)lanes); }

// One query's scores of a block to bfloat16 chances, exp(score - largest); returns their sum.
PIXELIS_TARGET_BF16 float write_chances(float* scores, int64_t count, float largest,
                                        uint16_t* chances) {
  const Lanes shift = splat(largest);
  Lanes total = Lanes{};
  for (int64_t i = 0; i < count; i += kTile) {
    const Lanes low = exponential(load(scores + i) - shift);
    const Lanes high = exponential(load(scores + i + 16) - shift);
    total += low + high;
    const __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    _mm512_store_si512(chances + i / kTile * kTilePair, (__m512i)both);
  }
  return sum_of(total);
}

PIXELIS_TARGET_BF16 float add_bias(float* scores, const float* bias, int64_t count) {
  Lanes most = splat(kHidden);
  for (int64_t i = 0; i < count; i += 16) {
    const Lanes score = load(scores + i) + load(bias + i);
    store(scores + i, score);
    most = larger(most, score);
  }
  return largest_of(most);
}

PIXELIS_TARGET_BF16 void scale_row(float* row, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i += 16) store(row + i, load(row + i) * splat(factor));
}

class Attention {
 public:
  Attention(const AttentionProblem& problem, int threads, uint16_t* out)
      : problem_(problem),
        threads_(threads),
        out_(out),
        multiply_(available_linear_levels().back() == LinearLevel::kAmx ? multiply_tiles_amx
                                                                        : multiply_tiles_avx512),
        bank_(problem, threads) {
    for (int i = 0; i < threads; ++i) scratch_.emplace_back(problem);
  }

  void run() {
    const int64_t blocks = (problem_.num_queries + kQueries - 1) / kQueries;
    for_each_item(blocks, threads_, [&](int thread, int64_t block) {
      query_block(scratch_[thread], block * kQueries);
    });
  }

 private:
  int64_t value_stride() const { return padded_stride(problem_.value_width); }

  void query_block(Scratch& scratch, int64_t first) {
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, problem_.num_queries - first));
    const TileMatrix queries = tile_matrix(scratch.queries.data(), 1, problem_.width);
    std::vector<int64_t> ids(static_cast<size_t>(rows));
    std::iota(ids.begin(), ids.end(), first);
    tile_left({problem_.queries, problem_.num_queries, problem_.width, true}, ids.data(), rows,
              queries);
    std::fill(scratch.largest, scratch.largest + kQueries, kHidden);
    std::fill(scratch.total, scratch.total + kQueries, 0.0f);
    std::fill(scratch.sums.data(), scratch.sums.data() + kQueries * value_stride(), 0.0f);
    for (int64_t key = 0; key < bank_.padded_keys; key += kKeys) {
      add_block(scratch, queries, key, rows);
    }
    for (int row = 0; row < rows; ++row) {
      float* sums = scratch.sums.data() + row * value_stride();
      scale_row(sums, padded(problem_.value_width), 1.0f / scratch.total[row]);
      narrow_lanes(sums, problem_.value_width, out_ + (first + row) * problem_.value_width);
    }
  }

  void add_block(Scratch& scratch, const TileMatrix& queries, int64_t key, int rows) {
    const int64_t count = std::min<int64_t>(kKeys, bank_.padded_keys - key);
    const int64_t panels = padded(rows) / kTile, stride = padded_stride(kKeys);
    multiply_(queries, 0, panels, bank_.keys, key / kTile, count / kTile, scratch.scores.data(),
              stride, false, {nullptr, 0});
    const TileMatrix chances = tile_matrix(scratch.chances.data(), 1, count);
    for (int row = 0; row < padded(rows); ++row) {
      float* scores = scratch.scores.data() + row * stride;
      const float before = scratch.largest[row];
      const float now = std::max(before, add_bias(scores, bank_.bias.data() + key, count));
      const float kept = std::exp(before - now);
      scale_row(scratch.sums.data() + row * value_stride(), padded(problem_.value_width), kept);
      uint16_t* to = chances.at(0, row / kTile, 0) + row % kTile * kTile;
      scratch.total[row] = scratch.total[row] * kept + write_chances(scores, count, now, to);
      scratch.largest[row] = now;
    }
    TileMatrix values = bank_.values;
    values.data += key / kTile * kTilePair;
    multiply_(chances, 0, panels, values, 0, padded(problem_.value_width) / kTile,
              scratch.sums.data(), value_stride(), true, {nullptr, 0});
  }

  const AttentionProblem& problem_;
  int threads_;
  uint16_t* out_;
  MultiplyTiles multiply_;
  Bank bank_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void tile_attention(const AttentionProblem& problem, int threads, uint16_t* out) {
  PIXELIS_CHECK(has_tile_attention(),
                "attention: expected a processor with AVX-512 BF16 or AMX, got none");
  Attention(problem, threads, out).run();
}

}  // namespace pixelis

#else

namespace pixelis {

void tile_attention(const AttentionProblem&, int, uint16_t*) {
  PIXELIS_CHECK(false, "attention: expected a processor with AVX-512 BF16 or AMX, got none");
}

}  // namespace pixelis

#endif
