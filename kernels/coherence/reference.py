"""Textbook coherence: one trajectory at a time, one formula per line, in the dtype it is given.

Autograd of these functions in float64 is the oracle of every kernel here. Knows no path and no
speed.

Shapes: T = steps of all trajectories, D = embedding, B = trajectories, N = tokens.
"""

from itertools import pairwise

import torch
from torch import Tensor

SMALLEST_SQUARE = 2.0**-126
"""A row whose squared norm is below float32's smallest normal number counts as a zero row."""


def cosine_reference(first_PD: Tensor, second_PD: Tensor) -> Tensor:
    """(P, D), (P, D) -> (P,). 0, with zero gradient, where either row is a zero row."""
    first_square_P = first_PD.square().sum(-1)
    second_square_P = second_PD.square().sum(-1)
    is_zero_P = torch.minimum(first_square_P, second_square_P) < SMALLEST_SQUARE
    # 1 instead of a zero norm: the gradient of a root at 0 is infinite, and infinity times 0 NaN.
    norm_P = torch.where(is_zero_P, 1.0, first_square_P * second_square_P).sqrt()
    return torch.where(is_zero_P, 0.0, (first_PD * second_PD).sum(-1) / norm_P)


def coherence_reference(
    steps_TD: Tensor,
    cu_seqlens_B1: Tensor,
    pair_weights_T: Tensor | None = None,
    *,
    repetition_threshold: float,
    repetition_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> reward (B,), mean (B,), hinge (B,), cosine (T,): what `coherence` returns."""
    cosine_T = steps_TD.new_zeros(len(steps_TD))
    means, hinges = [], []
    bounds = cu_seqlens_B1.tolist()
    for start, end in pairwise(bounds):
        if end - start < 2:
            means.append(steps_TD.new_zeros(()))
            hinges.append(steps_TD.new_zeros(()))
            continue
        cosine_P = cosine_reference(steps_TD[start : end - 1], steps_TD[start + 1 : end])
        cosine_T = cosine_T.slice_scatter(cosine_P, 0, start, end - 1)
        means.append(weighted_mean(cosine_P, pair_weights_T, start))
        over_P = torch.relu(cosine_P - repetition_threshold)
        hinges.append(weighted_mean(over_P, pair_weights_T, start))
    mean_B = torch.stack(means) if means else steps_TD.new_zeros(0)
    hinge_B = torch.stack(hinges) if hinges else steps_TD.new_zeros(0)
    return mean_B - repetition_weight * hinge_B, mean_B, hinge_B, cosine_T


def weighted_mean(values_P: Tensor, weights_T: Tensor | None, start: int) -> Tensor:
    """Over the pairs that begin at row `start`; 0 when all their weights are."""
    if weights_T is None:
        return values_P.mean()
    weights_P = weights_T[start : start + len(values_P)].to(values_P.dtype)
    if not weights_P.any():
        return (values_P * 0.0).sum()
    return (weights_P * values_P).sum() / weights_P.sum()


def segment_mean_reference(hidden_ND: Tensor, step_offsets_T1: Tensor) -> Tensor:
    """(N, D), (T + 1,) -> (T, D): the mean of each step's tokens, 0 for a step without tokens."""
    ends = pairwise(step_offsets_T1.tolist())
    means = [hidden_ND[start:end].sum(0) / max(end - start, 1) for start, end in ends]
    return torch.stack(means) if means else hidden_ND.new_zeros(0, hidden_ND.shape[1])
