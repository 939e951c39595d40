"""Imitation of chosen tokens: cross-entropy with a weight per token, without the logits.

Ignored tokens and tokens of weight 0 are left out of every product. Knows no token roles: whoever
calls says which token counts how much. Not twice differentiable.

Shapes: N = tokens, D = hidden width, V = vocabulary.
"""

from typing import NamedTuple

from torch import Tensor

from pixelis_fast.kernels.checks import check, check_choice
from pixelis_fast.kernels.linear_loss import LinearStatistics, linear_statistics
from pixelis_fast.kernels.token_rows import (
    check_number,
    check_rows,
    check_tokens,
    divisor,
    weights_where,
)

REDUCTIONS = ("mean", "sum", "none")


class ImitationLoss(NamedTuple):
    """The loss and what the pass knows anyway; only `loss` carries gradient.

    Example:
        found = masked_imitation_loss(hidden_ND, weight_VD, targets_N, token_weights_N)
        found.loss.backward()
        perplexity = torch.exp(-found.logprob_N[supervised_N].mean())
    """

    loss: Tensor
    """float32; shape () or, with reduction "none", (N) and 0 where nothing is supervised."""
    logprob_N: Tensor
    """log p[target], 0 in rows that are ignored or have weight 0; so are the next two."""
    entropy_N: Tensor
    """nats."""
    lse_N: Tensor
    """log sum_v exp z_v."""


def masked_imitation_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    token_weights_N: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    memory_budget_bytes: int | None = None,
    implementation: str = "auto",
) -> ImitationLoss:
    """sum_i w_i ((1 - eps) nll_i + eps mean_v(-log p_iv) + z_loss lse_i²) over its normalizer.

    hidden (N, D), weight (V, D), targets (N), token_weights (N) any floating dtype, constants.
    "mean" divides by the sum of supervised weights, or by `normalizer` (the sum over all
    micro-batches); with nothing supervised the loss is 0 and so are the gradients. A negative
    or non-finite weight is a ValueError on the CPU and is not looked for on a GPU.
    """
    check_tokens(targets_N, hidden_ND)
    _check_options(reduction, normalizer, z_loss, label_smoothing)
    weights_N = (targets_N != ignore_index).float()
    if token_weights_N is not None:
        check_rows("token_weights", token_weights_N, hidden_ND)
        weights_N = weights_where("token_weights", targets_N != ignore_index, token_weights_N)
    found = linear_statistics(
        hidden_ND,
        weight_VD,
        targets_N,
        valid_N=weights_N != 0,
        temperature=temperature,
        softcap=softcap,
        differentiate=_differentiated(z_loss, label_smoothing),
        memory_budget_bytes=memory_budget_bytes,
        implementation=implementation,
    )
    loss_N = weights_N * _token_loss(found, z_loss, label_smoothing)
    by_products = (found.logprob.detach(), found.entropy.detach(), found.lse.detach())
    return ImitationLoss(_reduce(loss_N, weights_N, reduction, normalizer), *by_products)


def _check_options(
    reduction: str, normalizer: Tensor | float | None, z_loss: float, label_smoothing: float
) -> None:
    check_choice("reduction", reduction, REDUCTIONS)
    fits = normalizer is None or reduction == "mean"
    check(fits, "normalizer", 'reduction "mean" beside it', repr(reduction))
    check_number("z_loss", z_loss)
    check(0 <= label_smoothing < 1, "label_smoothing", "a number in [0, 1)", label_smoothing)


def _differentiated(z_loss: float, label_smoothing: float) -> set[str]:
    names = {"logprob"}
    if z_loss or label_smoothing:
        names.add("lse")
    if label_smoothing:
        names.add("mean_logit")
    return names


def _token_loss(found: LinearStatistics, z_loss: float, label_smoothing: float) -> Tensor:
    loss_N = -(1 - label_smoothing) * found.logprob
    if label_smoothing:
        loss_N = loss_N + label_smoothing * (found.lse - found.mean_logit)
    if z_loss:
        loss_N = loss_N + z_loss * found.lse**2
    return loss_N


def _reduce(
    loss_N: Tensor, weights_N: Tensor, reduction: str, normalizer: Tensor | float | None
) -> Tensor:
    if reduction == "none":
        return loss_N
    if reduction == "sum":
        return loss_N.sum()
    return loss_N.sum() / divisor(normalizer, weights_N.sum())
