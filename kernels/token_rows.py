"""What the losses share about per-token vectors: checks, weights, means, values with a slope.

Shapes: N = tokens. Knows no vocabulary and no loss. Everything is float32: a per-token number in
another precision is converted once, here.
"""

import math

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check


def check_tokens(targets_N: Tensor, hidden_ND: Tensor) -> None:
    """One integer per row of hidden; linear_statistics checks what the integers are."""
    rows = tuple(hidden_ND.shape[:1])
    check(targets_N.shape == rows, "targets", f"shape {rows}", f"shape {tuple(targets_N.shape)}")
    integer = targets_N.dtype in (torch.int64, torch.int32)
    check(integer, "targets", "dtype torch.int64 or torch.int32", targets_N.dtype)
    _check_device("targets", targets_N, hidden_ND)


def check_rows(name: str, rows_N: Tensor, hidden_ND: Tensor, *, boolean: bool = False) -> None:
    """One constant per row of hidden: a mask, or any floating dtype."""
    rows = tuple(hidden_ND.shape[:1])
    check(rows_N.shape == rows, name, f"shape {rows}", f"shape {tuple(rows_N.shape)}")
    fits = rows_N.dtype == torch.bool if boolean else rows_N.is_floating_point()
    check(fits, name, "dtype torch.bool" if boolean else "a floating dtype", rows_N.dtype)
    _check_device(name, rows_N, hidden_ND)
    constant = not rows_N.requires_grad
    check(constant, name, "constants, call .detach()", "values that require grad")


def _check_device(name: str, tensor: Tensor, hidden_ND: Tensor) -> None:
    same = tensor.device == hidden_ND.device
    check(same, name, f"device {hidden_ND.device}", f"device {tensor.device}")


def constant_rows(name: str, rows_N: Tensor, valid_N: Tensor | None, hidden_ND: Tensor) -> Tensor:
    """Checked, float32, 0 in rows that are not valid: what those rows held does not matter."""
    check_rows(name, rows_N, hidden_ND)
    return rows_N.float() if valid_N is None else torch.where(valid_N, rows_N.float(), 0.0)


def check_number(name: str, value: float, *, positive: bool = False) -> None:
    fits = math.isfinite(value) and (value > 0 if positive else value >= 0)
    check(fits, name, f"a finite number {'above' if positive else 'of at least'} 0", value)


def weights_where(name: str, valid_N: Tensor, weights_N: Tensor) -> Tensor:
    """float32 weights, 0 in rows that are not valid; what those rows held does not matter.

    On the CPU a negative or non-finite weight of a valid row is a ValueError. On a GPU looking
    would wait for the device: a negative weight counts as it stands, NaN reaches the loss.
    """
    kept_N = torch.where(valid_N, weights_N.float(), 0.0)
    return _checked_weights(kept_N, name) if kept_N.device.type == "cpu" else kept_N


# An operator, so that torch.compile keeps the check without looking into it.
@torch.library.custom_op("pixelis_fast::checked_weights", mutates_args=(), device_types="cpu")
def _checked_weights(weights: Tensor, name: str) -> Tensor:
    wrong = ~(weights.isfinite() & (weights >= 0))
    if bool(wrong.any()):
        check(False, name, "finite numbers of at least 0", float(weights[wrong][0]))
    return weights.clone()


@_checked_weights.register_fake
def _(weights: Tensor, name: str) -> Tensor:
    return torch.empty_like(weights)


def divisor(normalizer: Tensor | float | None, total: Tensor) -> Tensor | float:
    """What a mean divides by: the normalizer, else the total, 1 where nothing was counted."""
    if normalizer is None:
        return torch.where(total == 0, 1.0, total)
    if not isinstance(normalizer, Tensor):
        check_number("normalizer", normalizer, positive=True)
        return float(normalizer)
    got = f"shape {tuple(normalizer.shape)}"
    check(normalizer.numel() == 1, "normalizer", "a number or a tensor of one element", got)
    constant = not normalizer.requires_grad
    check(constant, "normalizer", "a constant, call .detach()", "one that requires grad")
    return normalizer.reshape(()).to(total.device, torch.float32)


def with_slope(value_N: Tensor, slope_N: Tensor, statistic_N: Tensor) -> Tensor:
    """Exactly value_N, whose gradient is slope_N times the statistic's."""
    return value_N.detach() + slope_N.detach() * (statistic_N - statistic_N.detach())
