"""What the coherence tests share: ragged layouts, difficult rows, the oracle, poisoned buffers."""

from itertools import pairwise

import torch

from pixelis_fast.kernels.coherence import cpu_path, pool_triton, steps_triton
from pixelis_fast.kernels.coherence.reference import coherence_reference

THRESHOLD, WEIGHT = 0.9, 10.0
VALUES = ("reward_B", "mean_B", "hinge_B", "cosine_T")
PATHS = {
    "cpu": {"implementation": "cpu"},
    "triton": {"implementation": "triton"},
    "triton-one-launch": {"implementation": "triton", "max_steps": 32},
}
LENGTHS = {
    1: [0, 1, 0],
    2: [2],
    9: [0, 4, 1, 4],
    63: [0, 1, 7, 0, 0, 23, 2, 30, 0],
    70: [3, 0, 32, 1, 2, 0, 31, 1],
    129: [30, 1, 32, 32, 0, 17, 16, 1],
}


def poison_buffers(monkeypatch) -> None:
    """Every output starts as NaN, or as the lowest integer."""

    def poisoned(like, *shape, dtype=torch.float32):
        worst = float("nan") if dtype.is_floating_point else torch.iinfo(dtype).min
        return torch.full(shape, worst, dtype=dtype, device=like.device)

    for module in (cpu_path, steps_triton, pool_triton):
        monkeypatch.setattr(module, "new_buffer", poisoned)


def bounds_of(lengths, dtype=torch.int64):
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def difficult_rows(T, D, dtype, bounds):
    """Random rows of many sizes; per trajectory of at least three one that nearly repeats the one
    before, and a zero row."""
    rows_TD = torch.randn(T, D) * torch.logspace(-6, 6, T)[:, None]
    for start, end in pairwise(bounds.tolist()):
        if end - start >= 3:
            size = rows_TD[start].norm()
            rows_TD[start + 1] = rows_TD[start] + 0.1 * size * torch.randn(D) / D**0.5
            rows_TD[end - 1] = 0
    return rows_TD.to(dtype)


def reference_with_gradient(rows_TD, bounds, weights_T, gradients, **options):
    """The oracle in float64 on the same values -> its four outputs and the gradient."""
    rows_TD = rows_TD.detach().double().requires_grad_()
    options = {"repetition_threshold": THRESHOLD, "repetition_weight": WEIGHT} | options
    outputs = coherence_reference(rows_TD, bounds, weights_T, **options)
    if outputs[0].requires_grad or outputs[3].requires_grad:
        torch.autograd.backward(outputs, [one.double() for one in gradients])
    return outputs, torch.zeros_like(rows_TD) if rows_TD.grad is None else rows_TD.grad


def relative_error(actual_TD, expected_TD, rows_TD):
    """Of gradients, each row by its own size, since a gradient falls with it; a row whose true
    gradient is 0 must be 0 exactly."""
    size_T = rows_TD.detach().double().norm(dim=1)
    difference_T = (actual_TD.double() - expected_TD).norm(dim=1)
    norm_T = expected_TD.norm(dim=1)
    assert (difference_T[norm_T == 0] == 0).all()
    return ((difference_T * size_T).max() / (norm_T * size_T).max().clamp(min=1e-300)).item()
