"""Cheaper copies of a policy for decoding: bf16, and int8 weights with bf16 arithmetic.

Int8 is weight-only, one scale per output, symmetric; embeddings, norms, the vision tower and a tied
head stay as they are and are shared with the original. On the CPU int8 pays for few sessions
(`bench/engine.py` times all products by the number of rows): with many rows torch's kernel loses,
so weights are expanded first. On a GPU they always are, by plain torch: that saves memory, not
time. A copy is returned only through the gate of agreement.py.

Shapes: N = rows, D = inputs, I = outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pixelis_fast.policy.agreement import Gate
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.decoder import Layer
from pixelis_fast.policy.model import Policy

KERNEL_ROWS = 8
"""Up to so many rows torch's int8 kernel on the CPU is faster than bf16."""
LEVELS = 127


class Int8Linear(nn.Module):
    """A linear layer without bias whose matrix is int8."""

    weight_int8_ID: Tensor
    scale_I: Tensor

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.site = getattr(source, "site", None)
        rows, columns = source.weight.shape
        device, dtype = source.weight.device, source.weight.dtype
        int8_ID = torch.empty(rows, columns, dtype=torch.int8, device=device)
        self.register_buffer("weight_int8_ID", int8_ID)
        self.register_buffer("scale_I", torch.empty(rows, dtype=dtype, device=device))
        self.take(source)

    @torch.no_grad()
    def take(self, source: nn.Linear) -> None:
        """Quantizes the source's weights, in place."""
        weight_ID = source.weight.float()
        # A row of zeros keeps a scale of 1: zero divided by it is zero.
        largest_I = weight_ID.abs().amax(dim=1)
        self.scale_I.copy_(torch.where(largest_I > 0, largest_I / LEVELS, 1.0))
        steps_ID = (weight_ID / self.scale_I.float()[:, None]).round()
        self.weight_int8_ID.copy_(steps_ID.clamp(-LEVELS, LEVELS))

    def forward(self, x_ND: Tensor) -> Tensor:
        if x_ND.device.type == "cpu" and x_ND.shape[0] <= KERNEL_ROWS:
            return torch._weight_int8pack_mm(x_ND, self.weight_int8_ID, self.scale_I)
        return linear(x_ND, self.weight_int8_ID.to(x_ND.dtype)) * self.scale_I


def cast_policy(
    policy: Policy, probes: Sequence[PackedBatch], *, gate: Gate | None = None
) -> Policy:
    """A bf16 copy. Raises AgreementError where it says something else on the probes."""
    twin = deepcopy(policy).to(torch.bfloat16)
    (gate or Gate()).check(policy, twin, probes)
    return twin


def quantize_policy(
    policy: Policy,
    probes: Sequence[PackedBatch],
    *,
    original: Policy | None = None,
    gate: Gate | None = None,
) -> Policy:
    """A copy of a bf16 policy with int8 matrices in the decoder, for decoding only.

    It is held against `original` (fp32 where there is one), or against `policy`. Raises
    AgreementError where it says something else on the probes.

    Example:
        small = quantize_policy(cast_policy(policy, probes), probes, original=policy)
    """
    if policy.dtype != torch.bfloat16:
        raise ValueError(
            f"dtype: expected bfloat16, got {policy.dtype} (int8 products are slower than fp32's)"
        )
    twin = deepcopy(policy, {id(parameter): parameter for parameter in policy.parameters()})
    for owner, name in _linears(twin):
        setattr(owner, name, Int8Linear(getattr(owner, name)))
    (gate or Gate()).check(original or policy, twin, probes)
    return twin


def refresh_quantized(quantized: Policy, policy: Policy) -> None:
    """Takes over weights that were changed in place; Engine.publish belongs behind it."""
    pairs = zip(_linears(quantized), _linears(policy), strict=True)
    for (owner, name), (source_owner, source_name) in pairs:
        getattr(owner, name).take(getattr(source_owner, source_name))


def _linears(policy: Policy) -> list[tuple[nn.Module, str]]:
    """Every matrix of the decoder, and the head's unless it is the embedding."""
    found: list[tuple[nn.Module, str]] = []
    for layer in policy.layers:
        assert isinstance(layer, Layer)
        found += [(layer.attention, "qkv"), (layer.attention, "out")]
        found += [(layer, "gate_up"), (layer, "down")]
    return found if policy.lm_head is None else [*found, (policy, "lm_head")]
