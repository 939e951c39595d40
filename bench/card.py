"""The machine card printed beside every measurement: processor, device, versions, commit.

Knows nothing of arms or cases. A package that is missing is listed as such, never left out.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "numpy",
    "opencv-python-headless",
    "openvino",
    "onnxruntime-gpu",
    "onnxruntime",
    "llguidance",
    "pillow",
    "av",
    "sam2",
    "easyocr",
)
ROOT = Path(__file__).resolve().parents[1]


def machine_card(device: str, threads: int) -> dict[str, Any]:
    """Everything a reader needs to judge a number; `slug` names the results folder."""
    cpu, gpu = cpu_name(), gpu_name(device)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "device": device,
        "slug": slug(gpu if gpu else f"{cpu} {os.cpu_count()} cores"),
        "load_average_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: package_version(name) for name in PACKAGES},
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def gpu_name(device: str) -> str | None:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None


def package_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def slug(name: str) -> str:
    plain = re.sub(r"\((r|tm)\)", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def commit() -> str:
    """Short hash, `+` when the tree has changes, "uncommitted" outside a repository."""
    head = _git("rev-parse", "--short", "HEAD")
    if head is None:
        return "uncommitted"
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
