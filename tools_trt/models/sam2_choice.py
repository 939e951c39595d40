"""Which of the decoder's four masks counts: rules on tensors, outside the graphs.

Mask 0 answers a clear prompt, masks 1 to 3 are candidates for an ambiguous one.

Shapes: B = prompts, h, w = masks, N = any row per mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

STABILITY_MARGIN, STABILITY_THRESHOLD = 0.05, 0.98
"""The release's values for its predictors."""


def best_candidate(ious_B4: Tensor) -> Tensor:
    """Index 1..3 of the candidate with the highest predicted IoU, (B,)."""
    return ious_B4[:, 1:].argmax(dim=1) + 1


def stable_choice(masks_B4hw: Tensor, ious_B4: Tensor) -> Tensor:
    """Index 0 where mask 0 hardly changes with its threshold, else the best candidate, (B,)."""
    is_stable_B = stability(masks_B4hw[:, 0]) >= STABILITY_THRESHOLD
    return torch.where(is_stable_B, 0, best_candidate(ious_B4))


def stability(logits_Bhw: Tensor) -> Tensor:
    """IoU of the masks cut at plus and at minus the margin, (B,); 1 for masks that are empty."""
    flat = logits_Bhw.flatten(1)
    inner = (flat > STABILITY_MARGIN).sum(dim=1).float()
    outer = (flat > -STABILITY_MARGIN).sum(dim=1).float()
    return torch.where(outer > 0, inner / outer, 1.0)


def chosen(values_B4N: Tensor, index_B: Tensor) -> Tensor:
    """The row of each prompt's chosen mask: (B, 4, …) -> (B, …)."""
    rows = torch.arange(values_B4N.shape[0], device=values_B4N.device)
    return values_B4N[rows, index_B]
