"""The gate before a cheaper policy: its logits on probes must be those of the one it replaces.

Used for bf16 and for int8 weights. Knows no way of making a policy cheaper.
Shapes: N = tokens of all probes, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.model import Policy

TIE_NATS = 0.05
"""Tokens whose log-probabilities are this close are a tie. Flat logits have many: of random
bench-36m weights int8 changes 12 % of the most likely tokens."""


class AgreementError(ValueError):
    """A cheaper policy does not say what the original says."""


@dataclass(frozen=True)
class Agreement:
    """How alike two policies' next-token distributions are."""

    cosine: float
    """Smallest cosine between two logit rows."""
    argmax: float
    """Share of rows with the same most likely token, or one that the original likes as much."""


@dataclass(frozen=True)
class Gate:
    """What a cheaper policy must reach.

    Example:
        Gate(min_cosine=0.999).check(original, cheaper, [engine.training_batch(chunk)])
    """

    min_cosine: float = 0.995
    min_argmax: float = 0.97

    def check(self, original: Policy, cheaper: Policy, probes: Sequence[PackedBatch]) -> Agreement:
        """Raises AgreementError where it is not reached; the probes carry `original`'s features."""
        found = agreement(original, cheaper, probes)
        if not (found.cosine >= self.min_cosine and found.argmax >= self.min_argmax):
            raise AgreementError(
                f"cheaper policy: expected a cosine of at least {self.min_cosine} and "
                f"{100 * self.min_argmax:.0f} % equal argmax on the probes, got "
                f"{found.cosine:.5f} and {100 * found.argmax:.1f} %"
            )
        return found


@torch.inference_mode()
def agreement(original: Policy, cheaper: Policy, probes: Sequence[PackedBatch]) -> Agreement:
    """Over every token of every probe."""
    if not probes:
        raise ValueError("probes: expected at least one, got none")
    pairs = [(probe_logits(original, probe), probe_logits(cheaper, probe)) for probe in probes]
    ours_NV, theirs_NV = (torch.cat(side) for side in zip(*pairs, strict=True))
    chosen_N1 = theirs_NV.argmax(-1, keepdim=True)
    behind_N1 = ours_NV.amax(-1, keepdim=True) - ours_NV.gather(-1, chosen_N1)
    cosine_N = cosine_similarity(ours_NV, theirs_NV, dim=-1)
    return Agreement(float(cosine_N.min()), float((behind_N1 <= TIE_NATS).float().mean()))


def probe_logits(policy: Policy, probe: PackedBatch) -> Tensor:
    """(N, V) fp32."""
    moved = replace(
        probe,
        input_ids_N=probe.input_ids_N.to(policy.device),
        positions_3N=probe.positions_3N.to(policy.device),
    )
    return policy.logits(policy.hidden(moved))
