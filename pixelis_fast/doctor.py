"""What this machine can run: devices, backends with reasons, versions, weights, tools' engines."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from pixelis_fast.agent import TRAINED_PRESETS
from pixelis_fast.kernels import _cpu
from pixelis_fast.policy.attention import flash_varlen
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.tools import (
    ToolConfig,
    ToolError,
    describe_tools,
    probe_backends,
    shipped_weights,
)

PROJECT = "pixelis-fast"
NOT_FOR_RUNNING = "dev"
"""The extra of those who change this package."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    section: str
    name: str
    value: str
    good: bool = True


def findings(tools: ToolConfig, *, device: str = "cpu") -> list[Finding]:
    """Everything, in the order it is printed; the tools as they would run on the device."""
    states = describe_tools(tools, device=device)
    return [
        *_devices(),
        *_versions(),
        *_backends(),
        *_weights(tools),
        *(Finding("tools", name, state.engine, state.is_good) for name, state in states.items()),
    ]


def _devices() -> Iterator[Finding]:
    cpu = platform.processor() or platform.machine()
    yield Finding("devices", "cpu", f"{cpu}, {os.cpu_count()} cores, kernels: {_cpu.simd_level()}")
    if not torch.cuda.is_available():
        yield Finding("devices", "cuda", "unavailable: torch finds no CUDA device", good=False)
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding("devices", f"cuda:{index}", f"{card.name}, {card.total_memory >> 30} GiB")


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", platform.python_version())
    for package, extra in sorted(_packages().items()):
        try:
            yield Finding("versions", package, metadata.version(package))
        except metadata.PackageNotFoundError:
            missing = f"not installed: pip install '{PROJECT}{f'[{extra}]' if extra else ''}'"
            yield Finding("versions", package, missing, good=False)


def _packages() -> dict[str, str]:
    """What this installation declares that it needs or can use -> the extra that brings it."""
    found: dict[str, str] = {}
    for requirement in metadata.requires(PROJECT) or ():
        name = re.split(r"[^\w.-]", requirement)[0]
        extra = re.search(r"extra == ['\"]([^'\"]+)", requirement)
        if name != PROJECT and (extra is None or extra[1] != NOT_FOR_RUNNING):
            # What is needed anyhow comes first in the list, and no extra takes its place.
            found.setdefault(name, extra[1] if extra else "")
    return found


def _backends() -> Iterator[Finding]:
    yield Finding("backends", "attention", flash_varlen().reason)
    for status in probe_backends():
        value = "available" if status.available else "unavailable"
        yield Finding("backends", status.name, f"{value}: {status.reason}", good=status.available)


def _weights(tools: ToolConfig) -> Iterator[Finding]:
    yield from _text_weights()
    yield _sam2_weights(tools.sam2)
    for name, folder in TRAINED_PRESETS.items():
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        yield Finding("weights", f"policy {name}", f"{size / 1e6:.1f} MB")
    random = ", ".join(name for name in PRESETS if name not in TRAINED_PRESETS)
    yield Finding("weights", "policy", f"random ones only for {random}", good=False)


def _text_weights() -> Iterator[Finding]:
    try:
        paths = shipped_weights()
    except ToolError as error:
        yield Finding("weights", "text", str(error), good=False)
        return
    for path in paths:
        yield Finding("weights", path.name, f"{path.stat().st_size / 1e6:.1f} MB")


def _sam2_weights(given: str | None) -> Finding:
    if given is None:
        return Finding("weights", "sam2", "none named: --sam2 FOLDER_OR_PT", good=False)
    if given == "random" or Path(given).exists():
        return Finding("weights", "sam2", given)
    return Finding("weights", "sam2", f"expected a folder or a .pt file, got {given}", good=False)
