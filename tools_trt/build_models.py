"""Models by name for the build command: which specs a name stands for.

Knows weights and graphs, no backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelis_fast.tools_trt.graphs.spec import EngineSpec
from pixelis_fast.tools_trt.micro.model import WEIGHTS as MICRO_WEIGHTS
from pixelis_fast.tools_trt.models.sam2_config import SIZES, VERSIONS, config_for
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs
from pixelis_fast.tools_trt.models.sam2_weights import load_graphs, random_graphs
from pixelis_fast.tools_trt.ocr.specs import (
    craft_spec,
    crnn_spec,
    pp_detector_spec,
    pp_recognizer_spec,
)
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.sam2.specs import Sam2Specs

MICRO = "micro"
RELEASED = {
    f"sam{version}-{size}": (size, version)
    for version in VERSIONS
    for size in SIZES
    if size != MICRO
}
TEXT = ("pp-ocrv6", "craft", "crnn")
MODELS = (*RELEASED, MICRO, *TEXT)


def model_specs(
    model: str,
    *,
    weights: Path | None = None,
    random_weights: bool = False,
    side: int | None = None,
    graphs: Sequence[str] | None = None,
) -> list[EngineSpec]:
    """The specs a model's name stands for, or those of the named graphs alone."""
    if model not in MODELS:
        raise ToolInputError(f"model: expected one of {', '.join(MODELS)}, got {model!r}")
    if model in TEXT:
        if random_weights or side is not None:
            raise ToolInputError(f"model {model}: expected no random weights and no side")
        return _picked(_text(model, weights), graphs)
    if random_weights and weights is not None:
        raise ToolInputError("weights: expected a path or random weights, got both")
    path = MICRO_WEIGHTS if model == MICRO and weights is None else weights
    chosen = None if random_weights else path
    sam2 = _sam2_graphs(model, weights=chosen, side=side)
    return _picked(_sam2(sam2, trained=chosen is not None), graphs)


def has_random_weights(model: str, *, weights: Path | None, random_weights: bool) -> bool:
    """No released SAM 2 weights ship with us: without a path the graphs get random ones."""
    return random_weights or (model in RELEASED and weights is None)


def _text(model: str, weights: Path | None) -> dict[str, EngineSpec]:
    if model == "craft":
        return {"craft": craft_spec(weights)}
    if model == "crnn":
        return {"crnn": crnn_spec(weights)}
    if weights is not None:
        raise ToolInputError(f"model {model}: expected no weights, they ship with rapidocr")
    return {"detector": pp_detector_spec(), "recognizer": pp_recognizer_spec()}


def _sam2_graphs(model: str, *, weights: Path | None, side: int | None) -> Sam2Graphs:
    """Without weights seeded random ones."""
    size, version = RELEASED.get(model, (MICRO, VERSIONS[-1]))
    if weights is None:
        return random_graphs(config_for(size, side=side, version=version))
    found = load_graphs(weights, side=side)
    if (found.config.size, found.config.version) != (size, version):
        raise ToolInputError(
            f"weights: expected {size} of version {version}, got {found.config.size} of "
            f"{found.config.version} in {weights}"
        )
    return found


def _sam2(graphs: Sam2Graphs, *, trained: bool) -> dict[str, EngineSpec]:
    return Sam2Specs(graphs, trained=trained).served()


def _picked(specs: dict[str, EngineSpec], graphs: Sequence[str] | None) -> list[EngineSpec]:
    if unknown := set(graphs or ()) - set(specs):
        raise ToolInputError(f"graph: expected some of {', '.join(specs)}, got {sorted(unknown)}")
    return [spec for name, spec in specs.items() if not graphs or name in graphs]
