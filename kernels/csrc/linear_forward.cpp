#include "linear_forward.h"

#include <algorithm>
#include <optional>

#include "huge_pages.h"
#include "linear_operands.h"
#include "linear_totals.h"
#include "linear_work.h"

namespace pixelis {
namespace {

constexpr int kSliceBlocks = kSliceRows / kBlockRows;

// What a thread writes over again in every block.
struct Scratch {
  explicit Scratch(const PackedHead& policy, const PackedHead* reference)
      : left(policy.left_bytes()),
        logits(kBlockRows * padded_stride(kBlockTokens)),
        reference_left(reference ? reference->left_bytes() : 0),
        reference_logits(reference ? kBlockRows * padded_stride(kBlockTokens) : 0) {}

  Buffer<char> left;
  Buffer<float> logits;
  Buffer<char> reference_left;
  Buffer<float> reference_logits;
};

class Forward {
 public:
  Forward(const LinearProblem& problem, const StoredLogits& stored)
      : problem_(problem),
        stored_(stored),
        kernels_(linear_kernels(problem.level)),
        product_(make_product(problem.level, problem.policy.weight.is_bfloat16)),
        policy_(*product_, problem.policy, problem.threads),
        room_(padded(problem.tokens())),
        sums_(kSliceBlocks * kNumBlockSums * room_) {
    if (problem.reference) reference_.emplace(*product_, *problem.reference, problem.threads);
    targets_ = target_logits(problem, policy_, reference());
    for (int i = 0; i < problem.threads; ++i) scratch_.emplace_back(policy_, reference());
    const int64_t stored_bytes = stored.columns * stored.stride * int64_t{sizeof(float)};
    if (stored.logits != nullptr) prefer_huge_pages(stored.logits, stored_bytes);
    if (stored.deltas != nullptr) prefer_huge_pages(stored.deltas, stored_bytes);
  }

  void run(const StatisticsView& out) {
    Totals totals(targets_, problem_.tokens(), problem_.reference != nullptr);
    for (int64_t row = 0; row < problem_.vocabulary(); row += kSliceRows) {
      const int64_t rows = std::min<int64_t>(kSliceRows, problem_.vocabulary() - row);
      const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
      for_each_item(blocks, problem_.threads, [&](int thread, int64_t block) {
        sum_block(scratch_[thread], row + block * kBlockRows, block_sums(block));
      });
      for (int64_t block = 0; block < blocks; ++block) totals.add(block_sums(block), room_);
    }
    totals.finish(problem_.vocabulary(), out);
  }

 private:
  const PackedHead* reference() const { return reference_ ? &*reference_ : nullptr; }
  float* block_sums(int64_t block) { return sums_.data() + block * kNumBlockSums * room_; }

  void sum_block(Scratch& scratch, int64_t first_row, float* sums) {
    const int rows =
        static_cast<int>(std::min<int64_t>(kBlockRows, problem_.vocabulary() - first_row));
    const std::vector<int64_t> ids = row_range(first_row, rows);
    policy_.load(ids.data(), rows, scratch.left.data());
    if (reference_) reference_->load(ids.data(), rows, scratch.reference_left.data());
    for (int64_t token = 0; token < problem_.tokens(); token += kBlockTokens) {
      const int64_t end = std::min<int64_t>(token + kBlockTokens, problem_.tokens());
      const BlockView block = view(scratch, first_row, rows, token, end);
      fill(policy_, scratch.left.data(), block, block.logits, block.stride, token, end);
      if (reference_) {
        fill(*reference_, scratch.reference_left.data(), block, block.reference,
             block.reference_stride, token, end);
      }
      kernels_.block_sums(block,
                          {targets_.targets.data() + token, targets_.logits.data() + token,
                           targets_.shifts.data() + token},
                          sums + token, room_);
    }
  }

  void fill(const PackedHead& head, const void* left, const BlockView& block, float* out,
            int64_t stride, int64_t token, int64_t end) {
    const Ahead next = head.block_at(block.first_row + int64_t{problem_.threads} * kBlockRows);
    head.logits(left, block.rows, token, end, out, stride, next);
    kernels_.transform(out, stride, block.rows, block.tokens, problem_.scale, problem_.softcap);
  }

  // The block's logits are made where they are kept, if they are.
  BlockView view(Scratch& scratch, int64_t first_row, int rows, int64_t token, int64_t end) {
    const bool is_stored = first_row + rows <= stored_.columns;
    const int64_t at = first_row * stored_.stride + token;
    BlockView block{scratch.logits.data(),
                    scratch.reference_logits.data(),
                    padded_stride(kBlockTokens),
                    padded_stride(kBlockTokens),
                    rows,
                    first_row,
                    static_cast<int>(padded(end - token))};
    if (is_stored) {
      block.logits = stored_.logits + at;
      block.stride = stored_.stride;
    }
    if (is_stored && reference_ && stored_.deltas != nullptr) {
      block.reference = stored_.deltas + at;
      block.reference_stride = stored_.stride;
    }
    return block;
  }

  const LinearProblem& problem_;
  const StoredLogits& stored_;
  const LinearKernels& kernels_;
  std::unique_ptr<Product> product_;
  PackedHead policy_;
  std::optional<PackedHead> reference_;
  int64_t room_;
  TargetLogits targets_;
  Buffer<float> sums_;  // [blocks of a slice, kNumBlockSums, room]
  std::vector<Scratch> scratch_;
};

}  // namespace

void linear_forward(const LinearProblem& problem, const StoredLogits& stored,
                    const StatisticsView& out) {
  if (problem.tokens() == 0) return;
  Forward(problem, stored).run(out);
}

}  // namespace pixelis
