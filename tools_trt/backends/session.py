"""What every backend offers: a loaded graph that maps named arrays to named arrays."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Session(Protocol):
    """One loaded graph.

    Example:
        outputs = session.run({"x": pixels_NCHW})
    """

    name: str
    """Backend that runs it: "ort", "openvino"."""
    reason: str
    """Why this backend was picked."""
    input_names: tuple[str, ...]
    metadata: dict[str, str]
    """Custom text fields of the ONNX file."""

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Safe to call from several threads; the arrays returned belong to the caller."""
        ...
