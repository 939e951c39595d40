"""Who computes the imitation loss: what people write, what they install, ours.

Sum of token weights times negative log-likelihoods over the sum of the weights (task "weighted");
a peer without token weights computes their plain mean ("unweighted").
Shapes: N = tokens, D = width, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bench.loss_inputs import IGNORED, Inputs
from bench.loss_provider import CCE, FLA, LIGER, QUACK, Call, Provider
from bench.loss_truth import Output


def _weighted_mean(nll_N: Tensor, weights_N: Tensor, valid_N: Tensor) -> Tensor:
    counted_N = weights_N * valid_N
    return (nll_N * counted_N).sum() / counted_N.sum()


def _eager_nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = functional.linear(hidden_ND, weight_VD).float()
    return functional.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="none")


def _weighted(inputs: Inputs, nll: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    """A call around `nll(hidden, weight, targets)` with a value per token."""
    targets_N, valid_N = inputs.rest["targets"], inputs.rest["valid"]

    def call() -> Output:
        nll_N = nll(*inputs.leaves, targets_N)
        return Output(_weighted_mean(nll_N, inputs.rest["token_weights"], valid_N), nll_N)

    return call


def eager(inputs: Inputs) -> Call:
    return _weighted(inputs, _eager_nll)


def compiled(inputs: Inputs) -> Call:
    return _weighted(inputs, torch.compile(_eager_nll, dynamic=False))


def torch_chunked(inputs: Inputs) -> Call:
    """In chunks where its documentation calls them a win, with no fewer tokens than columns."""
    tokens, width = inputs.leaves[0].shape
    options = torch.nn.LinearCrossEntropyOptions() if tokens >= width else None
    return lambda: Output(
        functional.linear_cross_entropy(
            *inputs.leaves, inputs.rest["targets"], ignore_index=IGNORED, options=options
        )
    )


def liger(inputs: Inputs) -> Call:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden, weight = inputs.leaves
    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)
    return lambda: Output(loss(weight, hidden, inputs.rest["targets"]))


def liger_weighted(inputs: Inputs) -> Call:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="none")
    return _weighted(inputs, lambda hidden, weight, targets: loss(weight, hidden, targets))


def cut_cross_entropy(inputs: Inputs, *, filter_eps: str | None = "auto") -> Call:
    from cut_cross_entropy import linear_cross_entropy

    def nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden_ND,
            weight_VD,
            targets_N,
            ignore_index=IGNORED,
            reduction="none",
            filter_eps=filter_eps,
        )

    return _weighted(inputs, nll)


def cut_cross_entropy_exact(inputs: Inputs) -> Call:
    return cut_cross_entropy(inputs, filter_eps=None)


def flash_linear(inputs: Inputs) -> Call:
    from fla.modules import FusedLinearCrossEntropyLoss

    hidden, weight = inputs.leaves
    loss = FusedLinearCrossEntropyLoss(ignore_index=IGNORED)
    return lambda: Output(loss(hidden, inputs.rest["targets"], weight))


def quack(inputs: Inputs) -> Call:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    targets_N = inputs.rest["targets"]
    return lambda: Output(
        chunked_linear_cross_entropy(*inputs.leaves, targets_N, ignore_index=IGNORED)
    )


def ours(inputs: Inputs, *, memory_budget_bytes: int | None = None) -> Call:
    from pixelis_fast.kernels.masked_imitation import masked_imitation_loss

    def call() -> Output:
        found = masked_imitation_loss(
            *inputs.leaves,
            inputs.rest["targets"],
            inputs.rest["token_weights"],
            ignore_index=IGNORED,
            memory_budget_bytes=memory_budget_bytes,
        )
        return Output(found.loss, -found.logprob_N)

    return call


def ours_lean(inputs: Inputs) -> Call:
    return ours(inputs, memory_budget_bytes=0)


def ours_kept(inputs: Inputs) -> Call:
    """All logits are kept, so that backward does not compute them again: 3 products for 4."""
    return ours(inputs, memory_budget_bytes=1 << 40)


PLAIN_MEAN = "knows no token weights: computes the plain mean"
IMITATION = (
    Provider("eager", "weighted", eager),
    Provider("compile", "weighted", compiled, compiles=True),
    Provider(
        "torch-lce",
        "unweighted",
        torch_chunked,
        module="torch.nn.functional",
        attribute="linear_cross_entropy",
        note=PLAIN_MEAN,
    ),
    Provider("liger", "unweighted", liger, note=PLAIN_MEAN, **LIGER),
    Provider("liger-weighted", "weighted", liger_weighted, **LIGER),
    Provider("cce", "weighted", cut_cross_entropy, **CCE),
    Provider("cce-exact", "weighted", cut_cross_entropy_exact, **CCE),
    Provider("fla", "unweighted", flash_linear, note=PLAIN_MEAN, **FLA),
    Provider("quack", "unweighted", quack, note=PLAIN_MEAN, **QUACK),
    Provider("ours", "weighted", ours),
    Provider("ours-lean", "weighted", ours_lean),
    Provider("ours-kept", "weighted", ours_kept),
)
