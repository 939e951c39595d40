"""The micro SAM 2 beside the classical engines on scenes that neither has seen.

    python -m pixelis_fast.tools_trt.micro.evaluate

Held-out scenes over held-out photographs: IoU by kind of prompt, IoU over the later frames of
clips, processor time per call of every engine. The last line is one JSON document. Real objects
are bench/micro.py's, with the same comparison.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console

from pixelis_fast.tools_trt.classical.grabcut import PxBox, mask_box
from pixelis_fast.tools_trt.classical.segment import ClassicalSegment
from pixelis_fast.tools_trt.classical.track import ClassicalTrack
from pixelis_fast.tools_trt.micro.batches import visible_objects
from pixelis_fast.tools_trt.micro.comparison import compare, compare_tracks, table_of
from pixelis_fast.tools_trt.micro.grading import (
    CLIP_SEED,
    PICTURE_SEED,
    clip_ious,
    held_out_clips,
    held_out_pictures,
    picture_ious,
)
from pixelis_fast.tools_trt.micro.model import WEIGHTS, load_micro
from pixelis_fast.tools_trt.micro.photographs import HELD_OUT, photographs
from pixelis_fast.tools_trt.micro.scenes import draw_clip
from pixelis_fast.tools_trt.micro.surfaces import Photographs
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.segment import Sam2Segment
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.segment import SegmentEngine
from pixelis_fast.tools_trt.track import TrackEngine

PICTURES, CLIPS, FRAMES = 60, 12, 16


@dataclass(frozen=True)
class Drawn:
    """An object of a generated picture."""

    group: str
    image_HWC: np.ndarray
    mask_HW: np.ndarray

    @property
    def box_px(self) -> PxBox:
        return mask_box(self.mask_HW)

    @property
    def point_px(self) -> tuple[int, int]:
        """The point farthest from the outline."""
        bordered = np.pad(self.mask_HW.astype(np.uint8), 1)
        distance_HW = cv2.distanceTransform(bordered, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = divmod(int(distance_HW.argmax()), self.mask_HW.shape[1])
        return x, y


@dataclass(frozen=True)
class DrawnMoving:
    """An object of a generated clip."""

    group: str
    frames: list[np.ndarray]
    masks: list[np.ndarray]

    @property
    def box_px(self) -> PxBox:
        return mask_box(self.masks[0])


def drawn_objects(grounds: Photographs, *, count: int) -> list[Drawn]:
    """One object of each picture, in turn its first, second, … one."""
    found = []
    for number in range(count):
        clip = draw_clip((PICTURE_SEED, number, 1), grounds)
        labels = visible_objects(clip)
        if labels:
            label = labels[number % len(labels)]
            found.append(Drawn("generated", clip.frames_THWC[0], clip.mask(label)))
    return found


def drawn_moving(grounds: Photographs, *, count: int, frames: int) -> list[DrawnMoving]:
    found = []
    for number in range(count):
        clip = draw_clip((CLIP_SEED, number, 1), grounds, frames=frames)
        labels = visible_objects(clip)
        if labels:
            label = labels[number % len(labels)]
            masks = [clip.mask(label, frame=frame) for frame in range(frames)]
            found.append(DrawnMoving("generated clips", list(clip.frames_THWC), masks))
    return found


def segment_engines(weights: Path) -> dict[str, SegmentEngine]:
    return {"classical": ClassicalSegment(), "micro": Sam2Segment(Sam2.load(weights))}


def track_engines(weights: Path) -> dict[str, TrackEngine]:
    return {"classical": ClassicalTrack(), "micro": Sam2Track(Sam2.load(weights))}


def graded_scenes(weights: Path, grounds: Photographs) -> dict[str, float]:
    """Mean IoU by kind of prompt and the tracks' figures, as in the training's log."""
    graphs = load_micro(weights)
    pictures = held_out_pictures(grounds, count=PICTURES, side=graphs.config.side)
    clips = held_out_clips(grounds, count=CLIPS, frames=FRAMES, side=graphs.config.side)
    found = picture_ious(graphs, pictures) | clip_ious(graphs, clips)
    return {kind: round(float(values.mean()), 4) for kind, values in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    grounds, console = photographs(HELD_OUT), Console(stderr=True)
    means = graded_scenes(options.weights, grounds)
    console.print(means)
    rows = compare(drawn_objects(grounds, count=PICTURES), segment_engines(options.weights))
    rows += compare_tracks(
        drawn_moving(grounds, count=CLIPS, frames=FRAMES), track_engines(options.weights)
    )
    console.print(table_of(rows, "held-out scenes"))
    print(json.dumps({"held_out": means, "rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
