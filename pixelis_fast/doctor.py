"""What this machine can run: devices, backends with reasons, versions, weights, tools' engines."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from pixelis_fast.agent import TRAINED_PRESETS
from pixelis_fast.kernels import _cpu
from pixelis_fast.policy.attention import flash_varlen
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.tools import ToolConfig, describe_tools, probe_backends, shipped_weights

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "llguidance",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "rapidocr",
    "opencv-python-headless",
    "tensorrt",
    "flash-attn",
    "sam2",
    "easyocr",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    section: str
    name: str
    value: str
    good: bool = True


def findings(tools: ToolConfig) -> list[Finding]:
    """Everything, in the order it is printed."""
    return [
        *_devices(),
        *_versions(),
        *_backends(),
        *_weights(tools),
        *(Finding("tools", name, engine) for name, engine in describe_tools(tools).items()),
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
    for package in PACKAGES:
        try:
            yield Finding("versions", package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding("versions", package, "not installed", good=False)


def _backends() -> Iterator[Finding]:
    yield Finding("backends", "attention", flash_varlen().reason)
    for status in probe_backends():
        value = "available" if status.available else "unavailable"
        yield Finding("backends", status.name, f"{value}: {status.reason}", good=status.available)


def _weights(tools: ToolConfig) -> Iterator[Finding]:
    for path in shipped_weights():
        yield Finding("weights", path.name, f"{path.stat().st_size / 1e6:.1f} MB")
    yield _sam2_weights(tools.sam2)
    for name, folder in TRAINED_PRESETS.items():
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        yield Finding("weights", f"policy {name}", f"{size / 1e6:.1f} MB")
    random = ", ".join(name for name in PRESETS if name not in TRAINED_PRESETS)
    yield Finding("weights", "policy", f"random ones only for {random}", good=False)


def _sam2_weights(given: str | None) -> Finding:
    if given is None:
        return Finding("weights", "sam2", "none named: --sam2 FOLDER_OR_PT", good=False)
    if given == "random" or Path(given).exists():
        return Finding("weights", "sam2", given)
    return Finding("weights", "sam2", f"expected a folder or a .pt file, got {given}", good=False)
