"""NVIDIA's libraries that ONNX Runtime loads by itself: what its own version does not tell.

TensorRT builds the plans of its provider, cuDNN and cuBLAS pick the kernels of CUDA's. They come
as packages or with the system; both are named, since which of them a process loads depends on
paths. Facts for plan keys only.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
from ctypes.util import find_library

PACKAGES = (
    "tensorrt",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cudnn",
    "nvidia-cufft",
)
"""Beginnings of names: a package's end may tell CUDA's generation."""
SYSTEM = {"nvinfer": "getInferLibVersion", "cudnn": "cudnnGetVersion"}
"""By library the function that gives its version as a number."""


def library_versions() -> dict[str, str]:
    """Versions by package, and by library of the system."""
    return package_versions() | system_versions()


def package_versions() -> dict[str, str]:
    found = importlib.metadata.distributions()
    named = {each.name.lower().replace("_", "-"): each.version for each in found}
    return {name: version for name, version in sorted(named.items()) if name.startswith(PACKAGES)}


@functools.cache
def system_versions() -> dict[str, str]:
    """Asked of the libraries on the loader's own path; one that is not there is left out."""
    paths = {name: find_library(name) for name in SYSTEM}
    return {
        f"system {name}": library_version(path, SYSTEM[name])
        for name, path in paths.items()
        if path is not None
    }


def library_version(path: str, function: str) -> str:
    """What the function of a library gives."""
    ask = getattr(ctypes.CDLL(path), function)
    ask.restype = ctypes.c_size_t
    return str(ask())
