"""Scenes with exact ground truth made of real photographs, and clips encoded from frames.

An object is cut out of one photograph and moved over another: real texture, known masks.
"""

import io
from collections.abc import Callable, Sequence

import av
import cv2
import numpy as np
from PIL import Image

from tests.media import picture

Mask = np.ndarray


def photograph(name: str) -> np.ndarray:
    """RGB uint8 HWC of one of scikit-image's pictures."""
    with Image.open(picture(name)) as image:
        return np.array(image.convert("RGB"))


def ellipse(size: tuple[int, int], *, centre: tuple[int, int], axes: tuple[int, int]) -> Mask:
    mask = np.zeros(size, np.uint8)
    return cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, cv2.FILLED) > 0


def mission_patch() -> tuple[np.ndarray, Mask]:
    """The round patch on the astronaut's arm and its mask, outlined by hand."""
    image = photograph("astronaut.png")
    return image, ellipse(image.shape[:2], centre=(170, 386), axes=(36, 36))


def moving(
    cut_out: tuple[np.ndarray, Mask],
    ground: np.ndarray,
    *,
    path: Sequence[tuple[float, float]],
    size: tuple[int, int] = (200, 280),
    visible: Callable[[int], bool] = lambda _: True,
) -> tuple[list[np.ndarray], list[Mask]]:
    """Frames with the object centred on each point of the path, and its masks; mild noise."""
    noise = np.random.default_rng(0)
    height, width = size
    frames, masks = [], []
    for number, (x, y) in enumerate(path):
        frame = ground[:height, :width].astype(np.float32).copy()
        mask = np.zeros(size, dtype=bool)
        if visible(number):
            _put(frame, mask, cut_out, left=round(x), top=round(y))
        frames.append(np.clip(frame + noise.normal(0, 2, frame.shape), 0, 255).astype(np.uint8))
        masks.append(mask)
    return frames, masks


def _put(
    frame: np.ndarray, mask: Mask, cut_out: tuple[np.ndarray, Mask], *, left: int, top: int
) -> None:
    image, shape = cut_out
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    look, inside = image[part], shape[part]
    top, left = top - inside.shape[0] // 2, left - inside.shape[1] // 2
    y0, x0 = max(top, 0), max(left, 0)
    y1 = min(top + inside.shape[0], mask.shape[0])
    x1 = min(left + inside.shape[1], mask.shape[1])
    if y0 < y1 and x0 < x1:
        cut = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        frame[y0:y1, x0:x1][inside[cut]] = look[cut][inside[cut]]
        mask[y0:y1, x0:x1] = inside[cut]


def line(
    start: tuple[float, float], end: tuple[float, float], count: int
) -> list[tuple[float, float]]:
    """Evenly spaced points from start to end."""
    xs, ys = np.linspace(start[0], end[0], count), np.linspace(start[1], end[1], count)
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def encoded(frames: Sequence[np.ndarray], *, fps: int = 10) -> bytes:
    """An MP4 of good quality; sides must be even."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def box_px(mask: Mask) -> tuple[int, int, int, int]:
    """Bounding box of a mask, end exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def units(box: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A pixel box in 0..1000 of a frame of (height, width)."""
    height, width = size
    x0, y0, x1, y1 = box
    return x0 * 1000 // width, y0 * 1000 // height, -(-x1 * 1000 // width), -(-y1 * 1000 // height)


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max(int((one | other).sum()), 1))


def span_iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    overlap = max(min(one[1], other[1]) - max(one[0], other[0]), 0.0)
    return overlap / (one[1] - one[0] + other[1] - other[0] - overlap)
