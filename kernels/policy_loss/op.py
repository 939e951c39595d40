"""The loss of reinforcement fine-tuning and of test-time learning, from hidden states.

Clipped policy gradient + KL to an anchor - entropy bonus + imitation of chosen tokens: each is a
function of per-token statistics, so their sum is one pass over the vocabulary. Knows no groups,
rewards or controllers: advantages and weights are inputs.

Shapes: N = tokens, D = hidden width, E = the anchor's width, V = vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.linear_loss import LinearStatistics, ReferenceHead, linear_statistics
from pixelis_fast.kernels.policy_loss.clipped import check_clip, clipped_policy
from pixelis_fast.kernels.token_kl.estimators import check_forms, k3, mixed_kl
from pixelis_fast.kernels.token_rows import (
    check_number,
    check_rows,
    check_tokens,
    constant_rows,
    divisor,
    weights_where,
)


class PolicyLoss(NamedTuple):
    """loss = policy + kl_weight kl - entropy_weight entropy + imitation_weight imitation.

    Only `loss` carries gradient. Means run over valid tokens, imitation's over its own weights;
    what cannot be measured (no anchor, no imitation weights) is 0.

    Example:
        found = linear_policy_loss(hidden_ND, weight_VD, targets_N, advantages_N, behaviour_N)
        found.loss.backward()
        log(clipped=found.clipped_high + found.clipped_low, drift=found.behaviour_kl)
    """

    loss: Tensor
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    imitation: Tensor
    clipped_low: Tensor
    """Share of valid tokens whose gradient the lower bound stops (advantage below 0)."""
    clipped_high: Tensor
    """Share of valid tokens whose gradient the upper bound stops (advantage above 0)."""
    behaviour_kl: Tensor
    """Mean k3 of KL(behaviour‖policy): how far the policy moved since the rollout."""
    logprob_N: Tensor
    """log p[target], 0 in rows that take part in nothing; so are the next two."""
    entropy_N: Tensor
    kl_N: Tensor
    """In the chosen value form, 0 in rows that are not valid."""


def linear_policy_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    advantages_N: Tensor,
    behaviour_logprob_N: Tensor,
    *,
    valid_N: Tensor | None = None,
    normalizer: Tensor | float | None = None,
    clip: tuple[float, float] = (0.2, 0.28),
    reference: ReferenceHead | None = None,
    reference_logprob_N: Tensor | None = None,
    kl_weight: float = 0.0,
    kl_value: str = "exact",
    kl_gradient: str = "exact",
    kl_clamp: float | None = None,
    entropy_weight: float = 0.0,
    imitation_weights_N: Tensor | None = None,
    imitation_weight: float = 0.0,
    imitation_normalizer: Tensor | float | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    memory_budget_bytes: int | None = None,
    implementation: str = "auto",
) -> PolicyLoss:
    """Sum of the parts, each a token mean: -min(ratio A, clip(ratio, 1 - low, 1 + high) A), ...

    hidden (N, D), weight (V, D), targets (N); advantages, behaviour_logprob (N) constants of any
    floating dtype, the latter at this temperature and softcap. `valid` rows take part in policy,
    KL and entropy; rows with an imitation weight in imitation; a row may take part in both. The
    KL's forms are token_kl's; its "reverse_kl" uses the ratio as importance. A part of weight 0
    is measured, not trained. `normalizer` and `imitation_normalizer` replace the count and the
    sum of weights of this batch.
    """
    check_tokens(targets_N, hidden_ND)
    valid_N = _valid(valid_N, hidden_ND)
    advantages_N = constant_rows("advantages", advantages_N, valid_N, hidden_ND)
    behaviour_N = constant_rows("behaviour_logprob", behaviour_logprob_N, valid_N, hidden_ND)
    known_N = reference_logprob_N
    if known_N is not None:
        known_N = constant_rows("reference_logprob", known_N, valid_N, hidden_ND)
    anchor = Anchor(kl_weight, kl_value, kl_gradient, kl_clamp)
    _check_anchor(anchor, reference, known_N)
    check_number("entropy_weight", entropy_weight)
    check_clip(clip)
    imitated_N = _imitated(imitation_weights_N, imitation_weight, imitation_normalizer, hidden_ND)
    found = linear_statistics(
        hidden_ND,
        weight_VD,
        targets_N,
        valid_N=valid_N | (imitated_N != 0),
        reference=reference,
        temperature=temperature,
        softcap=softcap,
        differentiate=_differentiated(anchor, entropy_weight),
        memory_budget_bytes=memory_budget_bytes,
        implementation=implementation,
    )
    clipped = clipped_policy(found.logprob, behaviour_N, advantages_N, valid_N, clip)
    kl_N = _kl(found, valid_N, known_N, clipped.ratio_N, anchor, has_head=reference is not None)
    count = valid_N.sum()
    total, imitated = divisor(normalizer, count), divisor(imitation_normalizer, imitated_N.sum())
    parts = Parts(
        policy=clipped.loss_N.sum() / total,
        kl=kl_N.sum() / total,
        entropy=torch.where(valid_N, found.entropy, 0.0).sum() / total,
        imitation=-(imitated_N * found.logprob).sum() / imitated,
    )
    shares = (clipped.low_N, clipped.high_N, k3(-clipped.log_ratio_N))
    return PolicyLoss(
        _sum(parts, anchor.weight, entropy_weight, imitation_weight),
        *(part.detach() for part in parts),
        *(values_N.sum() / count.clamp(min=1) for values_N in shares),
        *(rows_N.detach() for rows_N in (found.logprob, found.entropy, kl_N)),
    )


class Anchor(NamedTuple):
    """How the KL counts and in which forms."""

    weight: float
    value: str
    gradient: str
    clamp: float | None


class Parts(NamedTuple):
    policy: Tensor
    kl: Tensor
    entropy: Tensor
    imitation: Tensor


def _sum(parts: Parts, kl_weight: float, entropy_weight: float, imitation_weight: float) -> Tensor:
    """A part of weight 0 is left out, so an infinite measurement cannot make the loss NaN."""
    loss = parts.policy
    if kl_weight:
        loss = loss + kl_weight * parts.kl
    if entropy_weight:
        loss = loss - entropy_weight * parts.entropy
    if imitation_weight:
        loss = loss + imitation_weight * parts.imitation
    return loss


def _valid(valid_N: Tensor | None, hidden_ND: Tensor) -> Tensor:
    if valid_N is None:
        return torch.ones(hidden_ND.shape[:1], dtype=torch.bool, device=hidden_ND.device)
    check_rows("valid", valid_N, hidden_ND, boolean=True)
    return valid_N


def _check_anchor(anchor: Anchor, reference: ReferenceHead | None, known_N: Tensor | None) -> None:
    check_number("kl_weight", anchor.weight)
    check_forms(anchor.value, anchor.gradient, anchor.clamp, prefix="kl_")
    check(
        reference is None or known_N is None, "reference_logprob", "None beside reference", "both"
    )
    if reference is None and known_N is None:
        idle = anchor == Anchor(0.0, "exact", "exact", None)
        check(idle, "reference", "an anchor, or reference_logprob, for the kl_ options", "neither")
    if known_N is not None:
        sampled = "exact" not in (anchor.value, anchor.gradient)
        got = f"kl_value {anchor.value!r} and kl_gradient {anchor.gradient!r}"
        check(sampled, "reference", "the anchor's head for an exact form", got)


def _imitated(
    weights_N: Tensor | None,
    weight: float,
    normalizer: Tensor | float | None,
    hidden_ND: Tensor,
) -> Tensor:
    check_number("imitation_weight", weight)
    if weights_N is None:
        idle = weight == 0 and normalizer is None
        check(idle, "imitation_weights", "weights for the imitation_ options", None)
        return hidden_ND.new_zeros(hidden_ND.shape[:1], dtype=torch.float32)
    check_rows("imitation_weights", weights_N, hidden_ND)
    return weights_where(
        "imitation_weights", torch.ones_like(weights_N, dtype=torch.bool), weights_N
    )


def _differentiated(anchor: Anchor, entropy_weight: float) -> set[str]:
    names = {"logprob"}
    if anchor.weight and anchor.gradient == "exact":
        names.add("kl")
    if entropy_weight:
        names.add("entropy")
    return names


def _kl(
    found: LinearStatistics,
    valid_N: Tensor,
    known_N: Tensor | None,
    ratio_N: Tensor,
    anchor: Anchor,
    *,
    has_head: bool,
) -> Tensor:
    if known_N is None and not has_head:
        return torch.zeros_like(found.kl)
    log_ratio_N = found.log_ratio if known_N is None else found.logprob - known_N
    kl_N = mixed_kl(
        found.kl,
        found.logprob,
        log_ratio_N,
        value=anchor.value,
        gradient=anchor.gradient,
        clamp=anchor.clamp,
        importance_N=ratio_N,
    )
    return torch.where(valid_N, kl_N, 0.0)
