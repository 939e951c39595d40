#include "linear_backward.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "huge_pages.h"
#include "linear_operands.h"
#include "linear_work.h"

namespace pixelis {
namespace {

constexpr int kColumns = 256;       // of a gradient that one item of work computes
constexpr int kTokensAtOnce = 256;  // rows of the hidden states' gradient beside them

struct Scratch {
  Scratch(const PackedHead& policy, const PackedHead* reference)
      : left(std::max(policy.left_bytes(), reference ? reference->left_bytes() : 0)),
        logits(kBlockRows * padded_stride(kBlockTokens)),
        reference_logits(reference ? kBlockRows * padded_stride(kBlockTokens) : 0),
        gradient(kBlockRows * padded_stride(std::max(kBlockTokens, kColumns))) {}

  Buffer<char> left;
  Buffer<float> logits;
  Buffer<float> reference_logits;
  Buffer<float> gradient;
};

// Per-token numbers padded with zeros: beyond the last token every gradient is 0.
struct PaddedCoefficients {
  PaddedCoefficients(const CoefficientsView& from, int64_t tokens)
      : values(6 * padded(tokens)), stride(padded(tokens)), plain(from.plain) {
    const float* each[] = {from.logprobs, from.constant, from.logit,
                           from.delta,    from.target,   from.uniform};
    for (int i = 0; i < 6; ++i) {
      std::copy(each[i], each[i] + tokens, values.begin() + i * stride);
    }
  }

  GradientView view(int64_t token, float scale, float softcap, float* out,
                    int64_t out_stride) const {
    const float* at = values.data() + token;
    return {at,
            at + stride,
            at + 2 * stride,
            at + 3 * stride,
            at + 4 * stride,
            at + 5 * stride,
            scale,
            softcap,
            plain,
            out,
            out_stride};
  }

  std::vector<float> values;
  int64_t stride;
  bool plain;
};

class Backward {
 public:
  Backward(const LinearProblem& problem, const StoredLogits& stored,
           const CoefficientsView& coefficients, const GradientOutputs& out)
      : problem_(problem),
        stored_(stored),
        out_(out),
        kernels_(linear_kernels(problem.level)),
        product_(make_product(problem.level, problem.policy.weight.is_bfloat16)),
        policy_(*product_, problem.policy, problem.threads),
        coefficients_(coefficients, problem.tokens()),
        slice_rows_(std::min<int64_t>(kSliceRows, problem.vocabulary())),
        gradient_(product_->gradient_bytes(slice_rows_, tokens())) {
    if (problem.reference) reference_.emplace(*product_, *problem.reference, problem.threads);
    const PackedHead* reference = reference_ ? &*reference_ : nullptr;
    targets_ = target_logits(problem, policy_, reference);
    for (int i = 0; i < problem.threads; ++i) scratch_.emplace_back(policy_, reference);
    if (out.weight) {
      const int64_t value_bytes = problem.policy.weight.is_bfloat16 ? 2 : 4;
      prefer_huge_pages(out.weight, problem.vocabulary() * width() * value_bytes);
      pack_hidden();
    }
    if (out.hidden) {
      weight_ = Buffer<char>(product_->packed_bytes(slice_rows_, width()));
      hidden_sums_ = Buffer<float>(column_parts() * part_size());
    }
  }

  void run() {
    for (int64_t row = 0; row < problem_.vocabulary(); row += kSliceRows) {
      const int64_t rows = std::min<int64_t>(kSliceRows, problem_.vocabulary() - row);
      const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
      for_each_item(blocks, problem_.threads, [&](int thread, int64_t block) {
        slice_block(scratch_[thread], row, rows, block * kBlockRows);
      });
      const int64_t products = out_.weight ? blocks : 0;
      const int64_t hidden_items = out_.hidden ? token_parts() * column_parts() : 0;
      for_each_item(products + hidden_items, problem_.threads, [&](int thread, int64_t item) {
        if (item < hidden_items) {
          add_hidden(row, rows, item);
        } else {
          write_weight(scratch_[thread], row, rows, (item - hidden_items) * kBlockRows);
        }
      });
    }
    if (out_.hidden) write_hidden();
  }

 private:
  int64_t tokens() const { return problem_.tokens(); }
  int64_t width() const { return problem_.policy.weight.columns; }
  int64_t token_parts() const { return (tokens() + kTokensAtOnce - 1) / kTokensAtOnce; }
  int64_t column_parts() const { return (width() + kColumns - 1) / kColumns; }
  int64_t part_size() const { return padded(tokens()) * padded_stride(kColumns); }

  void pack_hidden() {
    hidden_ = Buffer<char>(product_->packed_bytes(tokens(), width()));
    const Matrix& hidden = problem_.policy.hidden;
    for_each_item((tokens() + kTile - 1) / kTile, problem_.threads, [&](int, int64_t item) {
      const int64_t begin = item * kTile;
      product_->pack(hidden, 0, tokens(), begin, std::min<int64_t>(begin + kTile, tokens()),
                     hidden_.data());
    });
  }

  // The gradient of a block's logits into the slice, and the block's weight as an operand.
  void slice_block(Scratch& scratch, int64_t slice_first, int64_t slice_rows, int64_t first) {
    const int rows = static_cast<int>(std::min<int64_t>(kBlockRows, slice_rows - first));
    const std::vector<int64_t> ids = row_range(slice_first + first, rows);
    const bool is_stored = slice_first + first + rows <= stored_.columns;
    for (int64_t token = 0; token < tokens(); token += kBlockTokens) {
      const int64_t end = std::min<int64_t>(token + kBlockTokens, tokens());
      BlockView block{nullptr, nullptr, 0, 0, rows, ids[0], static_cast<int>(padded(end - token))};
      set_logits(scratch, ids, is_stored, token, end, block);
      put_gradient(scratch, block, slice_rows, first, token);
    }
    if (out_.hidden) {
      product_->pack(problem_.policy.weight, slice_first, slice_rows, first, first + rows,
                     weight_.data());
    }
  }

  void set_logits(Scratch& scratch, const std::vector<int64_t>& ids, bool is_stored, int64_t token,
                  int64_t end, BlockView& block) {
    const int64_t at = ids[0] * stored_.stride + token;
    block.stride = is_stored ? stored_.stride : padded_stride(kBlockTokens);
    block.logits = is_stored ? stored_.logits + at : scratch.logits.data();
    if (!is_stored) {
      compute(policy_, scratch, ids, token, end, block.logits, block.stride);
    }
    if (!reference_) return;
    const bool has_deltas = is_stored && stored_.deltas != nullptr;
    block.reference_stride = has_deltas ? stored_.stride : padded_stride(kBlockTokens);
    block.reference = has_deltas ? stored_.deltas + at : scratch.reference_logits.data();
    if (has_deltas) return;
    compute(*reference_, scratch, ids, token, end, block.reference, block.reference_stride);
    kernels_.deltas(block, targets_.shifts.data() + token);
  }

  void compute(const PackedHead& head, Scratch& scratch, const std::vector<int64_t>& ids,
               int64_t token, int64_t end, float* out, int64_t stride) {
    const int rows = static_cast<int>(ids.size());
    head.load(ids.data(), rows, scratch.left.data());
    const Ahead next = head.block_at(ids[0] + int64_t{problem_.threads} * kBlockRows);
    head.logits(scratch.left.data(), rows, token, end, out, stride, next);
    kernels_.transform(out, stride, rows, static_cast<int>(padded(end - token)), problem_.scale,
                       problem_.softcap);
  }

  void put_gradient(Scratch& scratch, const BlockView& block, int64_t slice_rows, int64_t first,
                    int64_t token) {
    const int64_t stride = padded_stride(kBlockTokens);
    float* gradient = scratch.gradient.data();
    kernels_.block_gradient(
        block,
        {targets_.targets.data() + token, targets_.logits.data() + token,
         targets_.shifts.data() + token},
        coefficients_.view(token, problem_.scale, problem_.softcap, gradient, stride));
    std::fill(gradient + block.rows * stride, gradient + padded(block.rows) * stride, 0.0f);
    product_->put_gradient(gradient, stride, first, block.rows, token, block.tokens, slice_rows,
                           tokens(), gradient_.data());
  }

  // Complete for its rows: every token is in it.
  void write_weight(Scratch& scratch, int64_t slice_first, int64_t slice_rows, int64_t first) {
    const int rows = static_cast<int>(std::min<int64_t>(kBlockRows, slice_rows - first));
    const int64_t stride = padded_stride(kColumns);
    float* sums = scratch.gradient.data();
    for (int64_t column = 0; column < width(); column += kColumns) {
      const int64_t end = std::min<int64_t>(column + kColumns, width());
      product_->weight_gradient(gradient_.data(), slice_rows, tokens(), first, rows, hidden_.data(),
                                column, end, {sums, stride, false});
      for (int row = 0; row < rows; ++row) {
        write(sums + row * stride, end - column, out_.weight,
              (slice_first + first + row) * width() + column);
      }
    }
  }

  void add_hidden(int64_t slice_first, int64_t slice_rows, int64_t item) {
    const int64_t token = item / column_parts() * kTokensAtOnce;
    const int64_t part = item % column_parts(), column = part * kColumns;
    const int64_t stride = padded_stride(kColumns);
    const int count = static_cast<int>(std::min<int64_t>(kTokensAtOnce, tokens() - token));
    float* sums = hidden_sums_.data() + part * part_size() + token * stride;
    product_->hidden_gradient(gradient_.data(), slice_rows, tokens(), token, count, weight_.data(),
                              column, std::min<int64_t>(column + kColumns, width()),
                              {sums, stride, slice_first > 0});
  }

  void write_hidden() {
    for_each_item(tokens(), problem_.threads, [&](int, int64_t token) {
      for (int64_t part = 0; part < column_parts(); ++part) {
        const float* sums =
            hidden_sums_.data() + part * part_size() + token * padded_stride(kColumns);
        const int64_t column = part * kColumns;
        write(sums, std::min<int64_t>(kColumns, width() - column), out_.hidden,
              token * width() + column);
      }
    });
  }

  void write(const float* values, int64_t count, void* out, int64_t at) {
    if (problem_.policy.weight.is_bfloat16) {
      product_->narrow(values, count, static_cast<uint16_t*>(out) + at);
    } else {
      std::memcpy(static_cast<float*>(out) + at, values, sizeof(float) * count);
    }
  }

  const LinearProblem& problem_;
  const StoredLogits& stored_;
  const GradientOutputs& out_;
  const LinearKernels& kernels_;
  std::unique_ptr<Product> product_;
  PackedHead policy_;
  std::optional<PackedHead> reference_;
  PaddedCoefficients coefficients_;
  int64_t slice_rows_;
  Buffer<char> gradient_;      // of a slice's logits
  Buffer<char> hidden_;        // hidden states as the right operand of the weight's gradient
  Buffer<char> weight_;        // a slice of the weight as that of the hidden states' gradient
  Buffer<float> hidden_sums_;  // [column parts, tokens, kColumns]: few pages under a tile's rows
  TargetLogits targets_;
  std::vector<Scratch> scratch_;
};

}  // namespace

void linear_backward(const LinearProblem& problem, const StoredLogits& stored,
                     const CoefficientsView& coefficients, const GradientOutputs& out) {
  Backward(problem, stored, coefficients, out).run();
}

}  // namespace pixelis
