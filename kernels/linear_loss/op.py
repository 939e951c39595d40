"""The public op: checks, the two custom operators with their shapes, and autograd between them.

One differentiable operator turns hidden states, a head and targets into per-token statistics; a
loss is ordinary torch on those vectors. Nothing of size N × V is kept beyond the memory budget:
what is not stored is computed again in backward. Knows no loss and no kernel, only the two paths
(Triton on a GPU or in the interpreter, C++ on the CPU).

Shapes: N = tokens, D = hidden width, E = the reference's width, V = vocabulary, S = statistics,
C = stored vocabulary columns.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check
from pixelis_fast.kernels.linear_loss.coefficients import coefficients
from pixelis_fast.kernels.linear_loss.inputs import (
    autocast_inputs,
    check_inputs,
    make_problem,
    poison_unknown_targets,
)
from pixelis_fast.kernels.linear_loss.paths import Path, open_path
from pixelis_fast.kernels.linear_loss.problem import (
    DIFFERENTIABLE,
    NAMES,
    Forward,
    LinearStatistics,
    ReferenceHead,
)
from pixelis_fast.kernels.triton_support import chosen_implementation

PLAIN = {"logprob", "log_ratio"}
"""Statistics whose gradient is a multiple of p - 1[target]: no elementwise pass in backward."""


def linear_statistics(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    valid_N: Tensor | None = None,
    reference: ReferenceHead | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    differentiate: Collection[str] = ("logprob",),
    memory_budget_bytes: int | None = None,
    implementation: str = "auto",
) -> LinearStatistics:
    """Per-token statistics of softmax(hidden · weightᵀ), differentiable to hidden and weight.

    hidden (N, D) and weight (V, D) bfloat16 or float32, D a multiple of 8; targets (N) int32 or
    int64; valid (N) bool, rows without it cost nothing and get zeros. `reference` is a frozen
    second head over the same vocabulary. Only the statistics named in `differentiate` carry
    gradient. `memory_budget_bytes` bounds what forward keeps for backward: with room for all V
    columns backward runs two matrix products, with less it computes the missing ones again.
    Not twice differentiable.
    ValueError on shapes, dtypes, devices; an unknown target in a valid row raises on the CPU and
    gives NaN in its row on a GPU, where raising would wait for the device.
    """
    hidden_ND, weight_VD, reference = autocast_inputs(hidden_ND, weight_VD, reference)
    check_inputs(hidden_ND, weight_VD, targets_N, valid_N, reference, temperature, softcap)
    _check_differentiate(differentiate, has_reference=reference is not None)
    chosen = chosen_implementation(implementation, hidden_ND)
    trains = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    names = ",".join(name for name in NAMES if name in differentiate) if trains else ""
    path = open_path(chosen)
    columns = path.stored_columns(
        hidden_ND, weight_VD, keeps_deltas="kl" in names.split(","), budget=memory_budget_bytes
    )
    if valid_N is None:
        valid_N = torch.ones_like(targets_N, dtype=torch.bool)
    found = _statistics(
        hidden_ND,
        weight_VD,
        targets_N,
        valid_N,
        None if reference is None else reference.hidden_NE,
        None if reference is None else reference.weight_VE,
        1.0 / temperature,
        softcap or 0.0,
        names,
        columns if names else 0,
        chosen,
    )
    kept = set(names.split(","))
    rows = zip(NAMES, found[0].unbind(0), strict=True)
    return LinearStatistics(*(row if name in kept else row.detach() for name, row in rows))


def _check_differentiate(names: Collection[str], *, has_reference: bool) -> None:
    known = DIFFERENTIABLE if has_reference else DIFFERENTIABLE - {"kl", "log_ratio"}
    unknown = sorted(set(names) - known)
    check(not unknown, "differentiate", f"some of {', '.join(sorted(known))}", unknown)


@torch.library.custom_op("pixelis_fast::linear_statistics", mutates_args=())
def _statistics(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    valid: Tensor,
    reference_hidden: Tensor | None,
    reference_weight: Tensor | None,
    scale: float,
    softcap: float,
    differentiate: str,
    stored_columns: int,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    problem = make_problem(
        hidden,
        weight,
        targets,
        valid,
        reference_hidden,
        reference_weight,
        scale,
        softcap,
        wants_mean="mean_logit" in differentiate.split(","),
    )
    stored = _stored(open_path(implementation), hidden, stored_columns, differentiate)
    with torch.cuda.device_of(hidden):
        statistics_SN, rows_RN = open_path(implementation).forward(problem, *stored)
    return poison_unknown_targets(statistics_SN, targets, valid, weight.shape[0]), rows_RN, *stored


def _stored(path: Path, hidden: Tensor, columns: int, names: str) -> tuple[Tensor, Tensor]:
    """The buffers of exponentials and of deltas; deltas only where kl is differentiated."""
    deltas = columns if "kl" in names.split(",") else 0
    return path.new_stored(hidden, columns), path.new_stored(hidden, deltas)


@_statistics.register_fake
def _statistics_shapes(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, *_, differentiate, stored_columns, implementation = inputs
    num_tokens, path = hidden.shape[0], open_path(implementation)
    stored = _stored(path, hidden, stored_columns, differentiate)
    statistics_SN = hidden.new_empty((len(NAMES), num_tokens), dtype=torch.float32)
    return statistics_SN, statistics_SN.new_empty((path.rows_per_token, num_tokens)), *stored


@torch.library.custom_op("pixelis_fast::linear_gradient", mutates_args=())
def _gradient(
    grads: Tensor,
    statistics: Tensor,
    rows: Tensor,
    exponentials: Tensor,
    deltas: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    valid: Tensor,
    reference_hidden: Tensor | None,
    reference_weight: Tensor | None,
    scale: float,
    softcap: float,
    differentiate: str,
    needs_hidden: bool,
    needs_weight: bool,
    implementation: str,
) -> tuple[Tensor, Tensor]:
    problem = make_problem(
        hidden,
        weight,
        targets,
        valid,
        reference_hidden,
        reference_weight,
        scale,
        softcap,
        wants_mean=False,
    )
    grads = torch.where(valid, grads, 0.0)
    with torch.cuda.device_of(hidden):
        dhidden_ND, dweight_VD = open_path(implementation).backward(
            problem,
            Forward(statistics, rows, exponentials, deltas),
            coefficients(grads, statistics, weight.shape[0]),
            plain=set(differentiate.split(",")) <= PLAIN and not softcap,
            needs_hidden=needs_hidden,
            needs_weight=needs_weight,
        )
    empty = hidden.new_empty(0)
    return (
        empty if dhidden_ND is None else dhidden_ND,
        empty.clone() if dweight_VD is None else dweight_VD,
    )


@_gradient.register_fake
def _gradient_shapes(*inputs: Any) -> tuple[Tensor, Tensor]:
    hidden, weight = inputs[5:7]
    *_, needs_hidden, needs_weight, _ = inputs
    like = torch.contiguous_format
    dhidden = torch.empty_like(hidden, memory_format=like) if needs_hidden else hidden.new_empty(0)
    dweight = torch.empty_like(weight, memory_format=like) if needs_weight else hidden.new_empty(0)
    return dhidden, dweight


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, valid, reference_hidden, reference_weight, *options = inputs
    statistics, rows, exponentials, deltas = output
    ctx.mark_non_differentiable(rows, exponentials, deltas)
    ctx.save_for_backward(
        statistics,
        rows,
        exponentials,
        deltas,
        hidden,
        weight,
        targets,
        valid,
        reference_hidden,
        reference_weight,
    )
    ctx.scale, ctx.softcap, ctx.differentiate, _, ctx.implementation = options


def _backward(ctx: Any, grads: Tensor, *_: Any) -> tuple[Any, ...]:
    needs_hidden, needs_weight = ctx.needs_input_grad[:2]
    dhidden, dweight = _gradient(
        grads,
        *ctx.saved_tensors,
        ctx.scale,
        ctx.softcap,
        ctx.differentiate,
        needs_hidden,
        needs_weight,
        ctx.implementation,
    )
    found = (dhidden if needs_hidden else None, dweight if needs_weight else None)
    return (*found, *[None] * 9)


torch.library.register_autograd("pixelis_fast::linear_statistics", _backward, setup_context=_save)
