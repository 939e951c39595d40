"""Trajectories whose calls the real tools ran, on pictures and clips drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pixelis_fast.tools import ToolBox, Workspace
from pixelis_fast.types import Evidence, Media, RolloutStatus, Sample, Step, ToolCall, Trajectory
from tests.scenes import encoded

DISK_BOX = (300, 600, 450, 900)
SIGN_BOX = (600, 100, 900, 300)


def call(operation: str, **arguments: Any) -> ToolCall:
    return ToolCall(operation, arguments)


def drawn_picture() -> np.ndarray:
    """A red disk and a sign that says KX42, on grey."""
    image = np.full((400, 800, 3), 190, np.uint8)
    cv2.circle(image, (300, 300), 60, (200, 30, 30), cv2.FILLED, cv2.LINE_AA)
    cv2.rectangle(image, (480, 40), (720, 120), (250, 250, 250), cv2.FILLED)
    cv2.putText(
        image, "KX42", (500, 104), cv2.FONT_HERSHEY_SIMPLEX, 2.2, (10, 10, 10), 5, cv2.LINE_AA
    )
    return image


def disk_frames(count: int = 10) -> tuple[list[np.ndarray], list[tuple[int, int, int, int]]]:
    """A disk that goes right, and its box in each frame, 0..1000."""
    frames, boxes = [], []
    for number in range(count):
        frame, x = np.full((200, 320, 3), 60, np.uint8), 60 + 12 * number
        cv2.circle(frame, (x, 100), 24, (230, 200, 40), cv2.FILLED, cv2.LINE_AA)
        frames.append(frame)
        boxes.append(tuple(round(v) for v in ((x - 24) / 0.32, 380, (x + 24) / 0.32, 620)))
    return frames, boxes


def resting_frames() -> list[np.ndarray]:
    """The disk rests for eight frames, goes for ten, and rests for eight."""
    frames = disk_frames()[0]
    return [frames[0]] * 8 + frames + [frames[-1]] * 8


def add_picture(tools: ToolBox, image: np.ndarray, folder: Path) -> Media:
    path = folder / f"picture-{image.sum()}.png"
    cv2.imwrite(str(path), image[..., ::-1])
    return tools.add_media(path)


def add_clip(tools: ToolBox, frames: Sequence[np.ndarray], folder: Path) -> Media:
    path = folder / f"clip-{len(frames)}.mp4"
    path.write_bytes(encoded(frames))
    return tools.add_media(path)


def chain(
    tools: ToolBox,
    media: Media,
    *calls: ToolCall,
    evidence: Sequence[Evidence] = (),
    answer: str | None = "left",
    truth: str | None = "left",
    sample_id: str = "s",
) -> Trajectory:
    """The calls' observations are the tools' own; no tokens."""
    sample = Sample(sample_id, (media,), "where?", truth, evidence=tuple(evidence))
    workspace = Workspace(sample.media)
    steps = [Step(0, 0, each, tools.run(each, workspace)) for each in calls]
    return Trajectory(
        sample,
        policy_version="drawn",
        seed=0,
        steps=[*steps, Step(0, 0)],
        answer=answer,
        status=RolloutStatus.ANSWERED,
    )
