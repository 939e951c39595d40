"""KL(p‖q) per token between two linear heads over one vocabulary, without either one's logits.

p is trained, q is frozen (an average of p, or its start). Exact over the vocabulary, or estimated
from the token that was drawn; the value's form and the gradient's are chosen apart. Knows no
controller and no reduction: a mean over tokens is the caller's.

Shapes: N = tokens, D = hidden width of p, E = of q, V = vocabulary.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.linear_loss import ReferenceHead, linear_statistics
from pixelis_fast.kernels.token_kl.estimators import check_forms, mixed_kl
from pixelis_fast.kernels.token_rows import check_rows, check_tokens, constant_rows


def token_kl(
    hidden_p_ND: Tensor,
    weight_p_VD: Tensor,
    hidden_q_NE: Tensor | None,
    weight_q_VE: Tensor | None,
    targets_N: Tensor | None = None,
    *,
    valid_N: Tensor | None = None,
    value: str = "exact",
    gradient: str = "exact",
    clamp: float | None = None,
    importance_N: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    reference_logprob_N: Tensor | None = None,
    memory_budget_bytes: int | None = None,
    implementation: str = "auto",
) -> Tensor:
    """(N) float32: KL(p‖q) in nats, 0 in rows that are not valid; differentiable to p only.

    value: "exact", or "k1", "k2", "k3" of the drawn `targets`. gradient: the same four, or
    "reverse_kl" = sg[importance · r] grad log p_y (importance 1 unless given); estimators.py says
    what each descends. `clamp` bounds |r| in value and gradient; without it k3 overflows below
    r = -88. A weight_q of None, or weight_p itself, shares the head, which costs half the reads;
    in q it counts as a constant. Any other q that requires grad is a ValueError. Where log q of
    the targets is known, at the same temperature and softcap, pass it as `reference_logprob` and
    None for q: estimators need no second head. exact is 0 with zero gradient where p equals q,
    and never negative.
    """
    check_forms(value, gradient, clamp)
    reference = _reference(weight_p_VD, hidden_q_NE, weight_q_VE, reference_logprob_N)
    _check_sampled(value, gradient, targets_N, importance_N, reference)
    if valid_N is not None:
        check_rows("valid", valid_N, hidden_p_ND, boolean=True)
    if importance_N is not None:
        importance_N = constant_rows("importance", importance_N, valid_N, hidden_p_ND)
    if reference_logprob_N is not None:
        reference_logprob_N = constant_rows(
            "reference_logprob", reference_logprob_N, valid_N, hidden_p_ND
        )
    if targets_N is None:
        targets_N = hidden_p_ND.new_zeros(hidden_p_ND.shape[:1], dtype=torch.int64)
    check_tokens(targets_N, hidden_p_ND)
    found = linear_statistics(
        hidden_p_ND,
        weight_p_VD,
        targets_N,
        valid_N=valid_N,
        reference=reference,
        temperature=temperature,
        softcap=softcap,
        differentiate=("kl",) if gradient == "exact" else ("logprob",),
        memory_budget_bytes=memory_budget_bytes,
        implementation=implementation,
    )
    log_ratio_N = found.log_ratio
    if reference_logprob_N is not None:
        log_ratio_N = found.logprob - reference_logprob_N
    return mixed_kl(
        found.kl,
        found.logprob,
        log_ratio_N,
        value=value,
        gradient=gradient,
        clamp=clamp,
        importance_N=importance_N,
    )


def _reference(
    weight_p_VD: Tensor,
    hidden_q_NE: Tensor | None,
    weight_q_VE: Tensor | None,
    reference_logprob_N: Tensor | None,
) -> ReferenceHead | None:
    if hidden_q_NE is None:
        check(weight_q_VE is None, "hidden_q", "given beside weight_q", None)
        known = reference_logprob_N is not None
        check(known, "hidden_q", "q's hidden states, or reference_logprob in their place", None)
        return None
    check(reference_logprob_N is None, "reference_logprob", "None beside q's head", "both")
    if weight_q_VE is None or weight_q_VE is weight_p_VD:
        return ReferenceHead(hidden_q_NE)
    return ReferenceHead(hidden_q_NE, weight_q_VE)


def _check_sampled(
    value: str,
    gradient: str,
    targets_N: Tensor | None,
    importance_N: Tensor | None,
    reference: ReferenceHead | None,
) -> None:
    exact = "exact" in (value, gradient)
    check(reference is not None or not exact, "hidden_q", "q's head for an exact form", None)
    drawn = targets_N is not None or (value == gradient == "exact")
    check(drawn, "targets", "the drawn tokens for a sampled form", None)
    fits = importance_N is None or gradient == "reverse_kl"
    check(fits, "importance", 'gradient "reverse_kl" beside it', repr(gradient))
