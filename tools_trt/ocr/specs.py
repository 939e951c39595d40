"""The text models as engine specs, for building, gating and timing one bucket at a time.

The readers keep sizes open (`easyocr_sessions`, `pp_ocr`) and use none of these plans, which tell
what a backend that wants static graphs would give. Probes are drawn lines of text. Knows nothing of
how lines are cut or joined.

Shapes: B = pictures or lines, H, W = input, V = classes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelis_fast.tools_trt.graphs.gates import Gate, mask_checks, text_checks
from pixelis_fast.tools_trt.graphs.spec import EngineSpec, TensorSpec
from pixelis_fast.tools_trt.models.crnn import LINE_HEIGHT as CRNN_HEIGHT
from pixelis_fast.tools_trt.models.crnn import Crnn
from pixelis_fast.tools_trt.ocr import easyocr_weights
from pixelis_fast.tools_trt.ocr import weights as text_weights
from pixelis_fast.tools_trt.ocr.easyocr_weights import ALPHABET, load_craft, load_crnn
from pixelis_fast.tools_trt.ocr.gate import probes as drawn_pages
from pixelis_fast.tools_trt.ocr.recognizer import LINE_HEIGHT as PP_HEIGHT

PAGES = ({"H": 256, "W": 448}, {"H": 480, "W": 640}, {"H": 736, "W": 1280})
"""A strip, a photograph, a screenshot."""
LINES = tuple({"B": count, "W": width} for count in (1, 8) for width in (320, 640, 1280))
CERTAIN = 40.0
"""A logit that leaves the other classes nothing."""
CRAFT_STEP_PX = 2
"""Pixels of the picture per step of CRAFT's maps."""
PP_CLASSES = 18_710
PP_COLUMN_PX = 8
"""Pixels of a line per column of PP-OCR's recogniser."""
LINE_TEXTS = ("Invoice 2024-117", "Ship to: 42 Market", "Gate 21", "Total: 1,284.50")


def craft_spec(folder: Path | None = None) -> EngineSpec:
    """EasyOCR's detector."""
    return EngineSpec(
        "easyocr/craft",
        inputs=(TensorSpec("pixels_B3HW", torch.float32, (1, 3, "H", "W")),),
        outputs=(TensorSpec("maps", torch.float32, (1, 2, "H/2", "W/2")),),
        buckets=PAGES,
        weights_id=_sha256(easyocr_weights.weights_path(easyocr_weights.DETECTOR, folder)),
        probes=lambda bucket: _pages("pixels_B3HW", bucket),
        gate=Gate(mask_checks("maps", threshold=0.4, scale=CRAFT_STEP_PX)),
        build=_once(lambda: load_craft(folder)),
    )


def crnn_spec(folder: Path | None = None) -> EngineSpec:
    """EasyOCR's recogniser; a blank column at the end makes the columns a quarter of the width."""
    return EngineSpec(
        "easyocr/crnn",
        inputs=(TensorSpec("pixels_B1HW", torch.float32, ("B", 1, CRNN_HEIGHT, "W")),),
        outputs=(TensorSpec("logits", torch.float32, ("B", "W/4", len(ALPHABET) + 1)),),
        buckets=LINES,
        weights_id=_sha256(easyocr_weights.weights_path(easyocr_weights.RECOGNIZER, folder)),
        probes=lambda bucket: _lines("pixels_B1HW", bucket, height=CRNN_HEIGHT, channels=1),
        gate=Gate(text_checks("logits")),
        build=_once(lambda: WithLastBlank(load_crnn(folder))),
    )


def pp_detector_spec() -> EngineSpec:
    """PP-OCRv6's detector."""
    path = text_weights.text_weights(text_weights.DETECTOR)
    return EngineSpec(
        "pp-ocrv6-small/detector",
        inputs=(TensorSpec("x", torch.float32, (1, 3, "H", "W")),),
        outputs=(TensorSpec("fetch_name_0", torch.float32, (1, 1, "H", "W")),),
        buckets=PAGES,
        weights_id=_sha256(path),
        probes=lambda bucket: _pages("x", bucket),
        gate=Gate(mask_checks("fetch_name_0", threshold=0.3)),
        onnx_path=path,
    )


def pp_recognizer_spec() -> EngineSpec:
    """PP-OCRv6's recogniser."""
    path = text_weights.text_weights(text_weights.RECOGNIZER)
    columns = f"W/{PP_COLUMN_PX}"
    return EngineSpec(
        "pp-ocrv6-small/recognizer",
        inputs=(TensorSpec("x", torch.float32, ("B", 3, PP_HEIGHT, "W")),),
        outputs=(TensorSpec("fetch_name_0", torch.float32, ("B", columns, PP_CLASSES)),),
        buckets=LINES,
        weights_id=_sha256(path),
        probes=lambda bucket: _lines("x", bucket, height=PP_HEIGHT, channels=3),
        gate=Gate(text_checks("fetch_name_0")),
        onnx_path=path,
    )


class WithLastBlank(nn.Module):
    """The CRNN and one more column that says blank: it changes no reading."""

    def __init__(self, crnn: Crnn) -> None:
        super().__init__()
        self.crnn = crnn

    def forward(self, pixels_B1HW: Tensor) -> tuple[Tensor]:
        (logits_BTV,) = self.crnn(pixels_B1HW)
        # Class 0 is the blank: any column in which it is the likeliest.
        blank_B1V = functional.one_hot(
            torch.zeros_like(logits_BTV[:, :1, 0], dtype=torch.long), logits_BTV.shape[2]
        )
        blank_B1V = CERTAIN * blank_B1V.to(logits_BTV.dtype)
        return (torch.cat([logits_BTV, blank_B1V], dim=1),)


def _once(load: Callable[[], nn.Module]) -> Callable[[Mapping[str, int]], nn.Module]:
    """The same module for every bucket, loaded at the first."""
    module = functools.cache(load)
    return lambda bucket: module()


def _pages(name: str, bucket: Mapping[str, int]) -> list[dict[str, Tensor]]:
    """The drawn pages, repeated over the bucket's size."""
    size = (bucket["W"], bucket["H"])
    return [{name: _planes(_repeated(page, size))[None]} for page in drawn_pages().values()]


def _lines(
    name: str, bucket: Mapping[str, int], *, height: int, channels: int
) -> list[dict[str, Tensor]]:
    """One probe of as many drawn lines as the bucket holds."""
    drawn = [_line(LINE_TEXTS[n % len(LINE_TEXTS)], height) for n in range(bucket["B"])]
    planes = [_planes(_repeated(line, (bucket["W"], height)))[:channels] for line in drawn]
    return [{name: torch.stack(planes)}]


def _line(text: str, height: int) -> np.ndarray:
    scale = height / 48
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 2)
    line_HWC = np.full((height, width + 2 * height, 3), 255, np.uint8)
    origin = (height, int(0.75 * height))
    cv2.putText(
        line_HWC, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (20, 20, 20), 2, cv2.LINE_AA
    )
    return line_HWC


def _repeated(image_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture side by side and below itself, cut at (width, height)."""
    width, height = size
    times = (-(-height // image_HWC.shape[0]), -(-width // image_HWC.shape[1]), 1)
    return np.tile(image_HWC, times)[:height, :width]


def _planes(image_HWC: np.ndarray) -> Tensor:
    """-1..1: what both recognisers and PP-OCR's detector take, and close to what CRAFT takes."""
    return torch.from_numpy(image_HWC.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
