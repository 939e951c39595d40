"""Where the PP-OCRv6 graphs lie: ONNX files that ship inside the rapidocr package.

The package is located, not imported: only its files are used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pixelis_fast.tools_trt.results import MissingWeightsError

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNIZER = "PP-OCRv6_rec_small.onnx"
ANGLE = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


def text_weights(file_name: str) -> Path:
    """Path of one graph; MissingWeightsError says what to install."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or not spec.submodule_search_locations:
        raise MissingWeightsError(
            "text weights: expected the package rapidocr, got none; pip install 'rapidocr>=3.10,<4'"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / file_name
    if not path.is_file():
        raise MissingWeightsError(f"text weights: expected {file_name}, got no such file: {path}")
    return path
