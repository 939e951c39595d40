"""What every backend offers: a loaded graph that maps named tensors to named tensors.

Inputs and outputs keep the graph's own types (float32, int64, …) whatever the backend computes
in. `host_arrays` and `check_inputs` are the checks all backends share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

HOST = torch.device("cpu")


class Session(Protocol):
    """One loaded graph.

    Example:
        outputs = session.run({"x": pixels_NCHW})
    """

    name: str
    """Effective backend: "openvino", "openvino-bf16", "ort-cuda"."""
    reason: str
    """Why this backend was picked."""
    device: torch.device
    """Where inputs are expected and outputs live."""
    input_names: tuple[str, ...]
    metadata: dict[str, str]
    """Custom text fields of the ONNX file."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Safe to call from several threads; the tensors returned belong to the caller."""
        ...


def check_inputs(session: Session, inputs: Mapping[str, Tensor]) -> None:
    """ValueError unless the names are the graph's and every tensor lies on its device."""
    if set(inputs) != set(session.input_names):
        expected, got = ", ".join(session.input_names), ", ".join(inputs)
        raise ValueError(f"{session.name}: expected the inputs {expected}, got {got}")
    for name, tensor in inputs.items():
        if tensor.device != session.device:
            raise ValueError(
                f"{session.name}: expected {name} on {session.device}, got {tensor.device}"
            )


def host_arrays(session: Session, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The inputs as numpy sees them; no copy of a contiguous tensor."""
    check_inputs(session, inputs)
    return {name: tensor.detach().contiguous().numpy() for name, tensor in inputs.items()}
