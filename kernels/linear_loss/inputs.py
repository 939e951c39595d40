"""What callers may pass, and what the paths get: checked, cast under autocast, contiguous."""

import math

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.linear_loss.problem import Problem, ReferenceHead

DTYPES = (torch.bfloat16, torch.float32)


def autocast_inputs(
    hidden_ND: Tensor, weight_VD: Tensor, reference: ReferenceHead | None
) -> tuple[Tensor, Tensor, ReferenceHead | None]:
    """Casts as a linear layer is cast; without autocast nothing changes."""
    device = hidden_ND.device.type
    if not torch.is_autocast_enabled(device):
        return hidden_ND, weight_VD, reference
    dtype = torch.get_autocast_dtype(device)
    if reference is not None:
        hidden_NE, weight_VE = reference
        weight_VE = None if weight_VE is None else weight_VE.to(dtype)
        reference = ReferenceHead(hidden_NE.to(dtype), weight_VE)
    return hidden_ND.to(dtype), weight_VD.to(dtype), reference


def check_inputs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    valid_N: Tensor | None,
    reference: ReferenceHead | None,
    temperature: float,
    softcap: float | None,
) -> None:
    _check_head("hidden", "weight", hidden_ND, weight_VD)
    rows, dtype, device = hidden_ND.shape[:1], hidden_ND.dtype, hidden_ND.device
    _check_rows("targets", targets_N, rows, (torch.int64, torch.int32), device)
    if valid_N is not None:
        _check_rows("valid", valid_N, rows, (torch.bool,), device)
    if reference is not None:
        hidden_NE, weight_VE = reference
        if weight_VE is None:
            weight_VE = weight_VD.detach()
        _check_head("reference.hidden", "reference.weight", hidden_NE, weight_VE)
        _check_same("reference.hidden rows", hidden_NE.shape[0], rows[0])
        _check_same("reference.weight rows", weight_VE.shape[0], weight_VD.shape[0])
        _check_same("reference dtype", hidden_NE.dtype, dtype)
        _check_same("reference device", hidden_NE.device, device)
        frozen = not (hidden_NE.requires_grad or weight_VE.requires_grad)
        check(frozen, "reference", "a frozen head, call .detach()", "one that requires grad")
    _check_positive("temperature", temperature)
    if softcap is not None:
        _check_positive("softcap", softcap)


def _check_head(hidden_name: str, weight_name: str, hidden: Tensor, weight: Tensor) -> None:
    check(hidden.ndim == 2, hidden_name, "shape (tokens, width)", f"shape {tuple(hidden.shape)}")
    check(
        weight.ndim == 2, weight_name, "shape (vocabulary, width)", f"shape {tuple(weight.shape)}"
    )
    check(hidden.dtype in DTYPES, hidden_name, "dtype bfloat16 or float32", hidden.dtype)
    _check_same(f"{weight_name} dtype", weight.dtype, hidden.dtype)
    _check_same(f"{weight_name} device", weight.device, hidden.device)
    _check_same(f"{weight_name} width", weight.shape[1], hidden.shape[1])
    width = hidden.shape[1]
    check(width > 0 and width % 8 == 0, f"{hidden_name} width", "a multiple of 8", width)
    check(weight.shape[0] > 0, weight_name, "at least one vocabulary row", weight.shape[0])


def _check_same(name: str, value: object, expected: object) -> None:
    check(value == expected, name, f"{expected}", value)


def _check_rows(
    name: str,
    rows: Tensor,
    shape: torch.Size,
    dtypes: tuple[torch.dtype, ...],
    device: torch.device,
) -> None:
    check(rows.shape == shape, name, f"shape {tuple(shape)}", f"shape {tuple(rows.shape)}")
    check(rows.dtype in dtypes, name, f"dtype {' or '.join(map(str, dtypes))}", rows.dtype)
    _check_same(f"{name} device", rows.device, device)


def _check_positive(name: str, value: float) -> None:
    check(math.isfinite(value) and value > 0, name, "a positive finite number", value)


def make_problem(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    valid: Tensor,
    reference_hidden: Tensor | None,
    reference_weight: Tensor | None,
    scale: float,
    softcap: float,
    *,
    wants_mean: bool,
) -> Problem:
    """Contiguous tensors and targets a kernel may index with; on the CPU unknown targets raise."""
    vocabulary = weight.shape[0]
    weight = weight.contiguous()
    unknown_N = unknown_targets(targets, valid, vocabulary)
    if targets.device.type == "cpu" and bool(unknown_N.any()):
        worst = int(targets[unknown_N][0])
        check(False, "targets", f"ids in [0, {vocabulary}) where valid", worst)
    return Problem(
        hidden_ND=hidden.contiguous(),
        weight_VD=weight,
        targets_N=torch.where(valid & ~unknown_N, targets, 0).long(),
        valid_N=valid.contiguous(),
        reference_hidden_NE=None if reference_hidden is None else reference_hidden.contiguous(),
        reference_weight_VE=_reference_weight(weight, reference_hidden, reference_weight),
        # A softcap bends both logits: their difference is then no product.
        shares_head=reference_hidden is not None and reference_weight is None and not softcap,
        scale=scale,
        softcap=softcap,
        wants_mean=wants_mean,
    )


def _reference_weight(
    weight: Tensor, reference_hidden: Tensor | None, reference_weight: Tensor | None
) -> Tensor | None:
    if reference_weight is not None:
        return reference_weight.contiguous()
    return None if reference_hidden is None else weight


def unknown_targets(targets: Tensor, valid: Tensor, vocabulary: int) -> Tensor:
    return valid & ((targets < 0) | (targets >= vocabulary))


def poison_unknown_targets(
    statistics_SN: Tensor, targets: Tensor, valid: Tensor, vocabulary: int
) -> Tensor:
    """NaN in rows whose target no vocabulary has; on the CPU there are none left."""
    if targets.device.type == "cpu":
        return statistics_SN
    return torch.where(unknown_targets(targets, valid, vocabulary), float("nan"), statistics_SN)
