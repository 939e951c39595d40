"""What precision an engine really computes in, read from the engine inspector's JSON.

Knows no tensorrt: text in, counts out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pixelis_fast.tools_trt.backends.builder import EngineBuildError

KINDS = (
    ("bf16", re.compile(r"bf16|bfloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|half|float16", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|tf32|float", re.IGNORECASE)),
    ("int8", re.compile(r"int8", re.IGNORECASE)),
)
"""In order: "BFloat16" also contains "float16", and "Float16" contains "float"."""
LEAST_SHARE = 0.5
"""Of the floating outputs; casts, norms and islands stay fp32 in a half engine too."""


def precision_histogram(information: str) -> dict[str, int]:
    """How many layer outputs are of each kind, from `get_engine_information(JSON)`."""
    layers = json.loads(information).get("Layers", [])
    kinds = Counter(kind for text in _datatypes(layers) if (kind := _kind(text)))
    if not kinds:
        raise EngineBuildError(
            "tensorrt: expected layers with data types from the inspector, got none; was the "
            "engine built with detailed profiling verbosity?"
        )
    return dict(kinds)


def check_precision(histogram: Mapping[str, int], rung: str) -> None:
    """EngineBuildError unless most outputs are in the asked precision; fp32 means all."""
    floating = sum(histogram.get(kind, 0) for kind in ("fp32", "fp16", "bf16"))
    share = histogram.get(rung, 0) / max(floating, 1)
    if share < (1.0 if rung == "fp32" else LEAST_SHARE):
        raise EngineBuildError(f"tensorrt: expected an engine in {rung}, got {dict(histogram)}")


def _datatypes(layers: list[Any]) -> Iterator[str]:
    """The data type of every layer's outputs; versions differ in the field's name."""
    for layer in layers:
        for output in layer.get("Outputs", []) if isinstance(layer, dict) else []:
            yield from (str(v) for name, v in output.items() if "datatype" in name.lower())


def _kind(text: str) -> str | None:
    return next((kind for kind, pattern in KINDS if pattern.search(text)), None)
