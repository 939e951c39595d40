"""What a plan is bound to: the processor or the GPU, its driver, and the code that exports.

Facts for plan keys only; nothing is measured here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

CPU_FILE = Path("/proc/cpuinfo")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
SOURCES = Path(__file__).parents[1]
EXPORTER = ("models", "backends", "graphs/precision.py")
"""Below this folder: a change in any of these may change what comes out of a build."""
EXPORTER_PACKAGES = ("onnx", "onnxscript")
"""What writes ONNX files beside torch and ONNX Runtime, whose versions stand in the key anyway."""


def device_identity(device: torch.device) -> dict[str, Any]:
    """Name, architecture and everything else that binds a plan to this machine's device."""
    return _cpu() if device.type == "cpu" else _gpu(device)


@functools.cache
def cpu_flags() -> tuple[str, ...]:
    """The processor's feature flags, sorted; empty where the system does not tell."""
    fields = _cpu_fields()
    return tuple(sorted((fields.get("flags") or fields.get("Features") or "").split()))


def has_bf16_units() -> bool:
    """bf16 products in hardware: AVX-512 or AMX on x86, the bf16 extension on ARM."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


@functools.cache
def exporter_version() -> str:
    """sha256 of the sources that graphs and exports come from, and of the packages they use."""
    digest = hashlib.sha256()
    for package in EXPORTER_PACKAGES:
        digest.update(f"{package}={package_version(package)}\0".encode())
    for entry in EXPORTER:
        path = SOURCES / entry
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(SOURCES)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def package_version(name: str) -> str:
    """An installed package's version, or "none": backends that write no ONNX work without."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _cpu() -> dict[str, Any]:
    name = _cpu_fields().get("model name") or platform.processor()
    return {"kind": "cpu", "name": name, "arch": platform.machine(), "flags": list(cpu_flags())}


def _cpu_fields() -> dict[str, str]:
    """The first processor's lines of the system's description."""
    if not CPU_FILE.is_file():
        return {}
    first, _, _ = CPU_FILE.read_text().partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpu(device: torch.device) -> dict[str, Any]:
    card = torch.cuda.get_device_properties(device)
    driver = DRIVER_FILE.read_text().splitlines()[0] if DRIVER_FILE.is_file() else "unknown"
    return {
        "kind": "cuda",
        "name": card.name,
        "arch": f"sm_{card.major}{card.minor}",
        "num_sms": card.multi_processor_count,
        "memory_gib": round(card.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "driver": driver,
    }
