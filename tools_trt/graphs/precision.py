"""Precisions, the order they are tried in, and modules brought to one.

A lowered module keeps fp32 inputs and outputs; only its weights, tables and inner arithmetic
change. torch's own layers cast what reaches them to their weights' type, so a graph that mixes
fp32 inputs with half weights needs no change. An island is a submodule that stays fp32: its inputs
are cast up and its outputs down again, so nothing around it notices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RUNGS = ("fp16", "bf16", "int8", "fp32")
GPU_LADDER = ("fp16", "bf16", "fp32")
"""fp16 keeps more digits and is tried first; where its range or its digits do not do, islands."""
MAX_ISLANDS = 12
"""More islands than this cost more in casts than half precision gains."""


@dataclass(frozen=True)
class Precision:
    """What a plan computes in.

    Example:
        Precision("fp16", islands=("neck", "blocks.3.norm"))
    """

    rung: str
    islands: tuple[str, ...] = ()
    """Submodules (of a module) or operator types (of an ONNX file) that stay fp32."""

    def __post_init__(self) -> None:
        if self.rung not in RUNGS:
            raise ValueError(f"precision: expected one of {', '.join(RUNGS)}, got {self.rung!r}")

    def __str__(self) -> str:
        kept = f" with {len(self.islands)} fp32 islands" if self.islands else ""
        return f"{self.rung}{kept}"


class Lowered(nn.Module):
    """A module in half precision behind fp32 outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.module(*inputs)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(_cast(output, torch.float32) for output in outputs)


def at_precision(module: nn.Module, precision: Precision) -> nn.Module:
    """The module itself in fp32, otherwise a lowered copy."""
    if precision.rung == "fp32":
        return module
    if precision.rung not in DTYPES:
        raise ValueError(f"precision of a module: expected {', '.join(DTYPES)}, got {precision}")
    dtype = DTYPES[precision.rung]
    lowered = copy.deepcopy(module).eval().to(dtype)
    for name in precision.islands:
        lowered.set_submodule(name, copy.deepcopy(module.get_submodule(name)).eval())
    for part in lowered.modules():
        if _is_layer(part):
            part.register_forward_pre_hook(_cast_to_own_dtype)
    for name in precision.islands:
        lowered.get_submodule(name).register_forward_pre_hook(_cast_up)
        lowered.get_submodule(name).register_forward_hook(_CastDown(dtype))
    return Lowered(lowered).eval()


def find_islands(
    module: nn.Module, run: Callable[[], object], passes: Callable[[tuple[str, ...]], bool]
) -> tuple[str, ...] | None:
    """The submodules that must stay fp32 for `passes`, by bisection from the top of the tree.

    `run` runs the module once, which tells the submodules that are called, in order. None where
    even all of them do not help, or more than MAX_ISLANDS are needed.
    """
    called = called_submodules(module, run)
    islands = smallest_islands(_directly_below("", called), passes)
    if islands is None:
        return None
    for name in islands:
        others = tuple(other for other in islands if other != name)
        islands = (*others, *_refined(name, others, called, passes))
    return islands if len(islands) <= MAX_ISLANDS else None


def smallest_islands(
    blocks: Sequence[str], passes: Callable[[tuple[str, ...]], bool]
) -> tuple[str, ...] | None:
    """The blocks needed, found one by one: the shortest prefix that passes ends with one."""
    if not passes(tuple(blocks)):
        return None
    found: tuple[str, ...] = ()
    while not passes(found):
        fails, holds = 0, len(blocks)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if passes((*blocks[:middle], *found)):
                holds = middle
            else:
                fails = middle
        found = (*found, blocks[holds - 1])
        blocks = blocks[: holds - 1]
    return found


def called_submodules(module: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the submodules that a run calls, in order of their first call."""
    called: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: called.setdefault(name)

    handles = [
        part.register_forward_pre_hook(note(name)) for name, part in module.named_modules() if name
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return list(called)


def _refined(
    name: str,
    others: tuple[str, ...],
    called: Sequence[str],
    passes: Callable[[tuple[str, ...]], bool],
) -> tuple[str, ...]:
    """An island's own parts in its place where fewer than all of them do."""
    parts = _directly_below(name, called)
    needed = smallest_islands(parts, lambda kept: passes((*others, *kept))) if parts else None
    if needed is None or len(needed) == len(parts):
        return (name,)
    refined: tuple[str, ...] = ()
    for n, part in enumerate(needed):
        around = (*others, *refined, *needed[n + 1 :])
        refined = (*refined, *_refined(part, around, called, passes))
    return refined


def _directly_below(name: str, called: Sequence[str]) -> list[str]:
    """Called submodules of `name` that no other called one contains."""
    prefix = f"{name}." if name else ""
    below = [other for other in called if other.startswith(prefix)]
    return [one for one in below if not any(one.startswith(f"{other}.") for other in below)]


def _is_layer(part: nn.Module) -> bool:
    """One of torch's own layers with weights; others are left to handle their types."""
    own = list(part.parameters(recurse=False))
    return bool(own) and type(part).__module__.startswith("torch.nn.modules")


def _cast_to_own_dtype(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(part.parameters(recurse=False)).dtype
    return tuple(_cast(value, dtype) for value in inputs)


def _cast_up(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_cast(value, torch.float32) for value in inputs)


@dataclass(frozen=True)
class _CastDown:
    """A hook rather than a closure: a module with it can be copied."""

    dtype: torch.dtype

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> Any:
        return _cast(outputs, self.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors inside tuples and lists too, such as an LSTM's state."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(part, dtype) for part in value)
    return value
