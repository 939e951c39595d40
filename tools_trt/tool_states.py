"""What each tool would run on here, looked up and not assumed; loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pixelis_fast.tools_trt.backends import BACKENDS, BackendMissingError, builder
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.sam2.engines import EAGER
from pixelis_fast.tools_trt.tool_config import ToolConfig, shipped_weights

DEVICE_KINDS = ("cpu", "cuda")


@dataclass(frozen=True)
class ToolState:
    """What one tool would run on, or why it would not.

    Example:
        describe_tools(ToolConfig())["read_text"].is_good
    """

    engine: str
    is_good: bool = True
    """False for a tool that cannot run, and for one that runs on a second-best engine."""


@dataclass(frozen=True)
class Usable:
    """Those of some backends that can run here, and why the others cannot."""

    names: tuple[str, ...]
    problems: tuple[str, ...]


def describe_tools(config: ToolConfig, *, device: str = "cpu") -> dict[str, ToolState]:
    """By tool's name; device as for `open_toolset`. ValueError for a device of another kind."""
    problem = device_problem(device)
    masks, reader = mask_state(config, device), text_state(config)
    spans = (
        f"frame statistics; appearance: vision tower on {device}, templates without a trained one"
    )
    states = {
        "zoom": ToolState("C++ resize, CPU" if device == "cpu" else f"torch resize on {device}"),
        "segment": masks,
        "track": masks,
        "read_text": reader,
        "localize": ToolState(f"{spans}; text: {reader.engine}", reader.is_good),
        "properties": ToolState("C++ moments, CPU"),
    }
    if problem is None:
        return states
    on_device = ("zoom", "localize", *(("segment", "track") if config.sam2 else ()))
    return states | {tool: ToolState(f"unavailable: {problem}", False) for tool in on_device}


def device_problem(device: str) -> str | None:
    """Why nothing can run on the device; None when it is here."""
    kind, _, index = device.partition(":")
    if kind not in DEVICE_KINDS or not (index.isdecimal() or device == kind):
        raise ValueError(f"device: expected cpu, cuda or cuda:NUMBER, got {device!r}")
    if kind == "cpu":
        return None
    count = torch.cuda.device_count()
    if int(index or 0) < count:
        return None
    return f"expected {device}, got a torch that finds {count} CUDA devices"


def mask_state(config: ToolConfig, device: str) -> ToolState:
    """Of segment and track, which share their engine."""
    if config.sam2 is None:
        return ToolState("classical, CPU; degraded: no SAM2 weights named", False)
    weights = f"sam2 from {config.sam2}"
    if config.sam2 == "random":
        weights = f"sam2 {config.sam2_model} with random weights (degraded)"
    elif problem := sam2_problem(Path(config.sam2)):
        return ToolState(f"unavailable: {problem}", False)
    if config.sam2_engine == EAGER:
        return ToolState(f"{weights}, eager PyTorch on {device}", config.sam2 != "random")
    state = engine_state(weights, sam2_backends(config.sam2_engine, device.partition(":")[0]))
    return ToolState(state.engine, state.is_good and config.sam2 != "random")


def sam2_problem(weights: Path) -> str | None:
    """Why there are no weights at the path; what a file holds is not read."""
    if weights.is_dir():
        has_config = (weights / "config.json").is_file()
        return None if has_config else f"expected config.json in {weights}, got none"
    if weights.is_file():
        return None
    return f"expected a folder, a .pt or a .safetensors file, got {weights}"


def text_state(config: ToolConfig) -> ToolState:
    try:
        shipped_weights()
    except MissingWeightsError as error:
        return ToolState(f"unavailable: {error}", False)
    readers = [name for name, backend in BACKENDS.items() if backend.onnx_session]
    asked = readers if config.text_backend == "auto" else [config.text_backend]
    return engine_state("pp-ocrv6-small", usable(asked, "cpu"))


def engine_state(weights: str, found: Usable) -> ToolState:
    if not found.names:
        return ToolState(f"unavailable: {'; '.join(found.problems)}", False)
    if len(found.names) == 1:
        return ToolState(f"{weights} on {found.names[0]}")
    return ToolState(f"{weights} on the fastest of {', '.join(found.names)}")


def sam2_backends(engine: str, kind: str) -> Usable:
    """The named one, or with auto all of the device's kind."""
    all_of_kind = [name for name, backend in BACKENDS.items() if backend.device == kind]
    return usable(all_of_kind if engine == "auto" else [engine], kind)


def usable(names: Sequence[str], kind: str) -> Usable:
    """Imports each; ValueError for a name that no backend has."""
    reasons = {name: backend_problem(name, kind) for name in names}
    return Usable(
        tuple(name for name, reason in reasons.items() if reason is None),
        tuple(reason for reason in reasons.values() if reason is not None),
    )


def backend_problem(name: str, kind: str) -> str | None:
    try:
        found = builder(name)
    except BackendMissingError as error:
        return str(error)
    if found.device.type != kind:
        return f"backend {name}: expected device {found.device.type!r}, got {kind!r}"
    return None
