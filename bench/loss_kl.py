"""Who computes a KL between two heads: what people write, what they install, ours.

Mean over valid tokens of KL(policy, reference) (task "reverse"); some peers only know the other
direction ("forward"). The corridor measures the same without gradient, and where it lies.
Shapes: N = tokens, V = vocabulary, C = tokens of a chunk, K = valid tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench.loss_inputs import IGNORED, Inputs
from bench.loss_provider import FLA, LIGER, Call, Provider
from bench.loss_truth import Output

CHUNK = 1024
"""Tokens whose two rows of logits eager KL holds at a time."""


def _eager_kl_chunk(*heads: Tensor) -> Tensor:
    """(C) KL(p, q) from hidden_p, weight_p, hidden_q, weight_q."""
    logp_CV = functional.linear(*heads[:2]).float().log_softmax(-1)
    logq_CV = functional.linear(*heads[2:]).float().log_softmax(-1)
    return (logp_CV.exp() * (logp_CV - logq_CV)).sum(-1)


ChunkKl = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _reference(inputs: Inputs) -> tuple[Tensor, Tensor]:
    return inputs.rest["reference_hidden"], inputs.rest["reference_weight"]


def _kl_mean(kl_N: Tensor, inputs: Inputs) -> Output:
    valid_N = inputs.rest["valid"]
    return Output((kl_N * valid_N).sum() / valid_N.sum(), kl_N)


def eager_kl(inputs: Inputs, chunk: ChunkKl = _eager_kl_chunk) -> Call:
    """Chunks of tokens, each computed again in backward, so that one chunk's logits exist."""
    (hidden, weight), (hidden_q, weight_q) = inputs.leaves, _reference(inputs)

    def call() -> Output:
        parts = [
            checkpoint(chunk, part, weight, part_q, weight_q, use_reentrant=False)
            for part, part_q in zip(hidden.split(CHUNK), hidden_q.split(CHUNK), strict=True)
        ]
        return _kl_mean(torch.cat(parts), inputs)

    return call


def compiled_kl(inputs: Inputs) -> Call:
    return eager_kl(inputs, torch.compile(_eager_kl_chunk, dynamic=False))


def liger_jsd(inputs: Inputs) -> Call:
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=1.0, ignore_index=IGNORED)
    return lambda: Output(loss(*inputs.leaves, *_reference(inputs), inputs.rest["targets"]))


def liger_kl(inputs: Inputs) -> Call:
    """Its reference comes as probabilities, so computing them is part of the work."""
    from liger_kernel.transformers.fused_linear_kl_div import LigerFusedLinearKLDivLoss

    loss = LigerFusedLinearKLDivLoss(ignore_index=IGNORED)

    def call() -> Output:
        with torch.no_grad():
            q_NV = functional.linear(*_reference(inputs)).softmax(-1)
        return Output(loss(*inputs.leaves, q_NV, inputs.rest["targets"]))

    return call


def flash_linear_kl(inputs: Inputs) -> Call:
    """It knows no mask, so valid rows are gathered first."""
    from fla.modules import FusedKLDivLoss

    (hidden, weight), (hidden_q, weight_q) = inputs.leaves, _reference(inputs)
    valid_N, loss = inputs.rest["valid"], FusedKLDivLoss()
    return lambda: Output(loss(hidden[valid_N], hidden_q[valid_N], weight, weight_q))


def our_kl(inputs: Inputs, *, memory_budget_bytes: int | None = None) -> Call:
    from pixelis_fast.kernels.token_kl import token_kl

    def call() -> Output:
        kl_N = token_kl(
            *inputs.leaves,
            *_reference(inputs),
            inputs.rest["targets"],
            valid_N=inputs.rest["valid"],
            memory_budget_bytes=memory_budget_bytes,
        )
        return _kl_mean(kl_N, inputs)

    return call


def our_kl_lean(inputs: Inputs) -> Call:
    return our_kl(inputs, memory_budget_bytes=0)


OTHER_WAY = "computes KL(reference, policy)"
KL = (
    Provider("eager", "reverse", eager_kl),
    Provider("compile", "reverse", compiled_kl, compiles=True),
    Provider("liger-jsd", "reverse", liger_jsd, **LIGER),
    Provider("liger-kl", "forward", liger_kl, note=OTHER_WAY, **LIGER),
    Provider("fla-kl", "forward", flash_linear_kl, note=OTHER_WAY, **FLA),
    Provider("ours", "reverse", our_kl),
    Provider("ours-lean", "reverse", our_kl_lean),
)


# ── the corridor ─────────────────────────────────────────────────────────────────────────────

LOW, HIGH, LEVELS = 0.10, 0.20, (0.5, 0.9, 0.99)
"""The defaults of our op."""


@torch.no_grad()
def _eager_corridor(inputs: Inputs, chunk: ChunkKl) -> Output:
    """KL per token, then mean, quantiles and who is outside, as people write it."""
    (hidden, weight), (hidden_q, weight_q) = _measured(inputs), _reference(inputs)
    pairs = zip(hidden.split(CHUNK), hidden_q.split(CHUNK), strict=True)
    kl_N = torch.cat([chunk(part, weight, part_q, weight_q) for part, part_q in pairs])
    valid_K = kl_N[inputs.rest["valid"]]
    valid_K.quantile(torch.tensor(LEVELS, device=kl_N.device))
    ((valid_K > HIGH).byte() - (valid_K < LOW).byte()).sum()
    return Output(valid_K.mean(), kl_N)


def _measured(inputs: Inputs) -> tuple[Tensor, Tensor]:
    return inputs.rest["hidden"], inputs.rest["weight"]


def eager_corridor(inputs: Inputs) -> Call:
    return lambda: _eager_corridor(inputs, _eager_kl_chunk)


def compiled_corridor(inputs: Inputs) -> Call:
    chunk = torch.compile(_eager_kl_chunk, dynamic=False)
    return lambda: _eager_corridor(inputs, chunk)


def our_corridor(inputs: Inputs) -> Call:
    from pixelis_fast.kernels.token_kl import corridor

    def call() -> Output:
        found = corridor(
            *_measured(inputs),
            *_reference(inputs),
            valid_N=inputs.rest["valid"],
            low=LOW,
            high=HIGH,
            quantiles=LEVELS,
        )
        return Output(found.mean, found.kl_N)

    return call


CORRIDOR = (
    Provider("eager", "reverse", eager_corridor),
    Provider("compile", "reverse", compiled_corridor, compiles=True),
    Provider("ours", "reverse", our_corridor),
)
