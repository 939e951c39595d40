"""A task's pixels as a file: PNG for a picture, H.264 in an MP4 for a video."""

from __future__ import annotations

from pathlib import Path

import av
import cv2

from pixelis_fast.data.pixelworld.task import Task

QUALITY = {"crf": "14", "preset": "veryfast"}
"""H.264's constant rate factor: noise stays, blocks do not show."""


def save_media(task: Task, folder: Path) -> Path:
    """Writes `<id>.png` or `<id>.mp4` into a folder that exists."""
    if task.fps == 0:
        path = folder / f"{task.id}.png"
        if not cv2.imwrite(str(path), task.frames[0][..., ::-1]):
            raise OSError(f"{path}: expected to write a picture, could not")
        return path
    path = folder / f"{task.id}.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(task.fps), options=QUALITY)
        stream.height, stream.width = task.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame_HWC in task.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path
