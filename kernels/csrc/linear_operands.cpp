#include "linear_operands.h"

#include <algorithm>
#include <numeric>

#include "linear_work.h"

namespace pixelis {

PackedHead::PackedHead(const Product& product, const LinearHead& head, int threads)
    : product_(product),
      head_(head),
      hidden_(product.transposed_bytes(head.hidden.columns, head.hidden.rows)) {
  const int64_t tokens = head.hidden.rows;
  for_each_item((tokens + kTile - 1) / kTile, threads, [&](int, int64_t item) {
    const int64_t begin = item * kTile;
    product.pack_transposed(head.hidden, begin, std::min<int64_t>(begin + kTile, tokens),
                            hidden_.data());
  });
}

void PackedHead::load(const int64_t* row_ids, int rows, void* left) const {
  product_.load_left(head_.weight, row_ids, rows, left);
}

void PackedHead::logits(const void* left, int rows, int64_t begin, int64_t end, float* out,
                        int64_t stride, Ahead ahead) const {
  product_.multiply(left, rows, head_.weight.columns, hidden_.data(), begin, end,
                    {out, stride, false}, ahead);
}

Ahead PackedHead::block_at(int64_t first) const {
  const Matrix& weight = head_.weight;
  const int64_t rows = std::clamp<int64_t>(weight.rows - first, 0, kBlockRows);
  const int64_t row_bytes = weight.columns * (weight.is_bfloat16 ? 2 : 4);
  const int64_t from = std::min(first, weight.rows);
  return {static_cast<const char*>(weight.data) + from * row_bytes, rows * row_bytes};
}

int64_t PackedHead::left_bytes() const { return product_.left_bytes(head_.weight.columns); }

std::vector<int64_t> row_range(int64_t first, int64_t count) {
  std::vector<int64_t> rows(count);
  std::iota(rows.begin(), rows.end(), first);
  return rows;
}

namespace {

// The diagonal of the 32 targets' logits for the 32 tokens from `begin` on.
void tile_target_logits(const LinearProblem& problem, const PackedHead& head, int64_t begin,
                        float* out) {
  const int64_t end = std::min<int64_t>(begin + kTile, problem.tokens());
  const int rows = static_cast<int>(end - begin);
  Buffer<char> left(head.left_bytes());
  alignas(64) float block[kTile * kTile];
  head.load(problem.targets + begin, rows, left.data());
  head.logits(left.data(), rows, begin, end, block, kTile);
  linear_kernels(problem.level)
      .transform(block, kTile, rows, kTile, problem.scale, problem.softcap);
  for (int row = 0; row < rows; ++row) out[begin + row] = block[row * kTile + row];
}

}  // namespace

TargetLogits target_logits(const LinearProblem& problem, const PackedHead& policy,
                           const PackedHead* reference) {
  const int64_t tokens = problem.tokens(), room = padded(tokens);
  TargetLogits found{std::vector<int64_t>(room, -1), std::vector<float>(room),
                     std::vector<float>(room)};
  std::copy(problem.targets, problem.targets + tokens, found.targets.begin());
  std::vector<float> other(room);
  for_each_item(room / kTile, problem.threads, [&](int, int64_t item) {
    tile_target_logits(problem, policy, item * kTile, found.logits.data());
    if (reference != nullptr) {
      tile_target_logits(problem, *reference, item * kTile, other.data());
    }
  });
  if (reference != nullptr) {
    for (int64_t i = 0; i < room; ++i) found.shifts[i] = found.logits[i] - other[i];
  }
  return found;
}

}  // namespace pixelis
