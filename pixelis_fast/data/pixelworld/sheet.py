"""A contact sheet: tasks of each family, as drawn and as a policy of 192 pixels sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from pixelis_fast.data.pixelworld.config import FAMILIES, PixelWorldConfig
from pixelis_fast.data.pixelworld.task import Task
from pixelis_fast.data.pixelworld.world import PixelWorld

CELL = 384
POLICY_SIDE = 192
COLUMNS = 3
CAPTION_PX = 22


def draw_sheet(config: PixelWorldConfig, split: str, path: Path) -> None:
    """One row per family: three tasks, each with its small view beside it."""
    rows = []
    for family in FAMILIES:
        world = PixelWorld(replace(config, families={family: 1.0}))
        rows.append(np.hstack([_cell(world.task(split, n)) for n in range(COLUMNS)]))
    sheet = np.vstack(rows)
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise OSError(f"{path}: expected to write a picture, could not")


def _cell(task: Task) -> np.ndarray:
    """The first and last frame, reduced to the policy's view and enlarged again, and a caption."""
    large = cv2.resize(task.frames[0], (CELL, CELL), interpolation=cv2.INTER_AREA)
    small = _as_seen(task.frames[0])
    other = _as_seen(task.frames[-1]) if task.fps else np.zeros_like(small)
    picture = np.hstack([large, np.vstack([small, other])])
    caption = np.full((CAPTION_PX, picture.shape[1], 3), 255, np.uint8)
    text = f"{task.question} = {task.answer}"
    cv2.putText(caption, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([caption, picture])


def _as_seen(frame_HWC: np.ndarray) -> np.ndarray:
    size = (POLICY_SIDE, POLICY_SIDE)
    return cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA)
