"""Masks to and from COCO run-length dictionaries, through pycocotools.

Shapes: H, W = picture.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from pixelis_fast.tools_trt.results import RleMask, ToolInputError


def encode_mask(mask_HW: np.ndarray) -> RleMask:
    """(H, W) of bool or 0/1 -> {"size": [H, W], "counts": ASCII}."""
    encoded = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(mask: RleMask) -> np.ndarray:
    """The mask as (H, W) of bool."""
    if set(mask) != {"size", "counts"} or len(mask["size"]) != 2:
        raise ToolInputError(f"mask: expected size [h, w] and counts, got {sorted(mask)}")
    counts = mask["counts"].encode("ascii")
    return coco.decode({"size": mask["size"], "counts": counts}).astype(bool)
