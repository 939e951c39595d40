"""Masks to and from COCO run-length dictionaries, through pycocotools.

Shapes: H, W = picture.
"""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from pixelis_fast.tools_trt.geometry import shown, whole_numbers
from pixelis_fast.tools_trt.results import RleMask, ToolInputError


def encode_mask(mask_HW: np.ndarray) -> RleMask:
    """(H, W) of bool or 0/1 -> {"size": [H, W], "counts": ASCII}."""
    encoded = coco.encode(np.asfortranarray(mask_HW, dtype=np.uint8))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def check_mask(mask: object) -> RleMask:
    """The mask with its size as ints; ToolInputError unless it has a size and text for counts."""
    fields = mask if isinstance(mask, dict) and set(mask) == {"size", "counts"} else {}
    size, counts = whole_numbers(fields.get("size"), 2), fields.get("counts")
    if size is None or min(size) < 1 or not isinstance(counts, str):
        raise ToolInputError(f"mask: expected size [h, w] and counts, got {shown(mask)}")
    return {"size": list(size), "counts": counts}


def decode_mask(mask: RleMask) -> np.ndarray:
    """The mask as (H, W) of bool; ToolInputError when the runs do not fill the frame exactly."""
    mask = check_mask(mask)
    height, width = mask["size"]
    # pycocotools trusts the runs: short ones leave memory of others in the mask.
    runs = run_lengths(mask["counts"])
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise ToolInputError(f"mask: expected runs that fill {height}x{width}, got {sum(runs)}")
    counts = mask["counts"].encode("ascii")
    return coco.decode({"size": mask["size"], "counts": counts}).astype(bool)


def run_lengths(counts: str) -> list[int]:
    """COCO's compressed counts as runs of 0 and 1 in turn.

    Five bits per character from "0" on, 32 marks that more follow; the third run and later ones are
    differences to the run two before (pycocotools' maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ToolInputError(f"mask: expected COCO's characters, got {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        signed = value - (1 << shift) if bits & 16 else value
        runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ToolInputError("mask: expected whole counts, got a string cut in the middle")
    return runs
