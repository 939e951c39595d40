#include "linear_totals.h"

#include <algorithm>
#include <cmath>

namespace pixelis {
namespace {

// -log1p(exp(x)), never positive, without overflow.
double minus_softplus(double x) {
  return x > 0 ? -(x + std::log1p(std::exp(-x))) : -std::log1p(std::exp(x));
}

// 0 where rounding left less; NaN stays NaN.
double not_negative(double x) { return x < 0 ? 0 : x; }

}  // namespace

Totals::Totals(const TargetLogits& targets, int64_t tokens, bool has_reference)
    : targets_(targets), tokens_(tokens), has_reference_(has_reference) {
  for (int64_t i = 0; i < tokens; ++i) {
    tokens_[i] = {};
    tokens_[i].anchor = tokens_[i].reference_anchor = targets.logits[i];
  }
}

// Sums against two anchors meet at the higher one.
void Totals::add(const float* sums, int64_t stride) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    Token& token = tokens_[i];
    const double anchor = sums[kAnchor * stride + i];
    double scale = 1;
    if (anchor > token.anchor) {
      const double shrink = std::exp(token.anchor - anchor);
      token.weighted = shrink * (token.weighted + (token.anchor - anchor) * token.others);
      token.others *= shrink;
      token.ratio *= shrink;
      token.excess *= shrink;
      token.anchor = anchor;
    } else if (anchor < token.anchor) {
      scale = std::exp(anchor - token.anchor);
    }
    const double others = scale * sums[kOthers * stride + i];
    token.weighted += scale * sums[kWeightedLogit * stride + i] + (anchor - token.anchor) * others;
    token.others += others;
    token.logit += sums[kLogit * stride + i];
    if (has_reference_) add_reference(token, sums + i, stride, scale);
  }
}

void Totals::add_reference(Token& token, const float* sums, int64_t stride, double scale) {
  token.ratio += scale * sums[kRatio * stride];
  token.excess += scale * sums[kExcess * stride];
  const double anchor = sums[kReferenceAnchor * stride];
  double reference_scale = 1;
  if (anchor > token.reference_anchor) {
    const double shrink = std::exp(token.reference_anchor - anchor);
    token.far *= shrink;
    token.reference *= shrink;
    token.reference_anchor = anchor;
  } else if (anchor < token.reference_anchor) {
    reference_scale = std::exp(anchor - token.reference_anchor);
  }
  token.far += reference_scale * sums[kFar * stride];
  token.reference += reference_scale * sums[kReference * stride];
}

void Totals::finish(int64_t vocabulary, const StatisticsView& out) const {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    finish_token(static_cast<int64_t>(i), vocabulary, out);
  }
}

void Totals::finish_token(int64_t i, int64_t vocabulary, const StatisticsView& out) const {
  const Token& token = tokens_[i];
  const double target_logit = targets_.logits[i], shift = targets_.shifts[i];
  const double above = target_logit - token.anchor;  // 0 unless some logit is far above
  const double own = std::exp(above), all = token.others + own;
  const bool is_near = above == 0;
  const double logprob =
      is_near ? -std::log1p(token.others) : minus_softplus(std::log(token.others) - above);
  const double log_all = is_near ? -logprob : std::log(all);
  const double lse = target_logit - logprob;
  const double entropy = log_all - (token.weighted + own * above) / all;
  out.logprob[i] = static_cast<float>(logprob);
  out.lse[i] = static_cast<float>(lse);
  out.entropy[i] = static_cast<float>(not_negative(entropy));
  out.mean_logit[i] = static_cast<float>(token.logit / static_cast<double>(vocabulary));
  out.target_logits[i] = targets_.logits[i];
  out.shifts[i] = targets_.shifts[i];
  if (!has_reference_) return;
  // log sum_v p exp(-d): its argument less 1 is small where p and q are close, and then exact.
  const double far = token.far * std::exp(token.reference_anchor - token.anchor);
  const double less_one = (token.excess + far - token.ratio) / all;
  const double log_ratio =
      std::abs(less_one) < 0.5
          ? std::log1p(less_one)
          : std::log(token.reference) + token.reference_anchor - (log_all + token.anchor);
  out.kl[i] = static_cast<float>(not_negative(token.ratio / all + log_ratio));
  out.log_ratio[i] = static_cast<float>(log_ratio);
  out.reference_lse[i] = static_cast<float>(lse - shift + log_ratio);
}

}  // namespace pixelis
