"""What a provider is, and whether it can run here.

A provider opens on a point's inputs and gives a call without arguments; the call's `Output` is
what gets timed, descended and compared. Packages are imported when a provider opens, never before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from bench.loss_inputs import Inputs
from bench.loss_truth import Output

Call = Callable[[], Output]

# What installed peers' providers say about themselves.
LIGER: dict[str, Any] = {
    "module": "liger_kernel.transformers",
    "package": "liger-kernel",
    "devices": ("cuda",),
}
CCE: dict[str, Any] = {
    "module": "cut_cross_entropy",
    "package": "cut-cross-entropy",
    "devices": ("cuda",),
}
FLA: dict[str, Any] = {
    "module": "fla.modules",
    "package": "fla-core",
    "devices": ("cuda",),
}
QUACK: dict[str, Any] = {
    "module": "quack.linear_cross_entropy",
    "package": "quack-kernels",
    "devices": ("cuda",),
}


@dataclass(frozen=True)
class Provider:
    """One way to do an op's work.

    Example:
        Provider("liger", "unweighted", liger, module="liger_kernel.ops", package="liger-kernel")
    """

    name: str
    task: str
    """Which of the truth's answers it computes; a peer may lack what the op asks for."""
    open: Callable[[Inputs], Call]
    module: str = "torch"
    """What `open` imports."""
    package: str = "torch"
    """As a package index names it."""
    attribute: str = ""
    """Of the module, where only newer versions have it."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    compiles: bool = False
    """By torch.compile: its first call is a build."""
    note: str = ""
    """How its work differs from the op's."""

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")


def why_not(provider: Provider, device: str) -> str | None:
    """The reason it cannot run on `device`, None where it may; an import that fails says so in
    the process of its own that every provider gets first (loss_probe.py)."""
    if device.split(":")[0] not in provider.devices:
        return f"needs {NAMES[provider.devices[0]]}"
    if find_spec(provider.module.split(".")[0]) is None:
        return f"not installed: {provider.package}"
    if provider.attribute and not hasattr(import_module(provider.module), provider.attribute):
        version = metadata.version(provider.package)
        return f"not installed: {provider.package} {version} has no {provider.attribute}"
    return None


NAMES = {"cpu": "the CPU", "cuda": "CUDA"}
