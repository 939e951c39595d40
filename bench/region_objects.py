"""Objects with known outlines, still and moving: photographs outlined by another method or by hand,
drawn scenes, and real cut-outs moved over real photographs.

Knows no engine. Masks are bool, height x width; boxes and points are pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import sobel
from skimage.segmentation import watershed

from bench.scenes import package_folder, scene

GROUNDS = ("coffee.png", "chelsea.png", "rocket.jpg")
FRAME_SIZE = (200, 280)
"""Height and width of the frames that cut-outs move in."""
LARGE_FRAME_SIZE, LARGE_SCALE = (420, 640), 3
"""And of those in which an object three times as large moves: 216 pixels."""
PATHS = (
    ((60, 60), (200, 140)),
    ((60, 140), (220, 60)),
    ((140, 50), (140, 150)),
    ((200, 100), (60, 100)),
)
"""From and to, centres of the object."""
COUNTS = (16, 8, 4)
"""Frames along a path: from about 10 to about 50 pixels apart."""
NOISE = 2.0


@dataclass(frozen=True)
class Outlined:
    """One object in one picture.

    Example:
        Outlined("coins", "coin 3", image_HWC, mask_HW)
    """

    group: str
    name: str
    image_HWC: np.ndarray
    mask_HW: np.ndarray

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        return box_of(self.mask_HW)

    @property
    def point_px(self) -> tuple[int, int]:
        """The point farthest from the outline."""
        distance_HW = ndimage.distance_transform_edt(np.pad(self.mask_HW, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(distance_HW.argmax(), distance_HW.shape)
        return int(x), int(y)


@dataclass(frozen=True)
class Moving:
    """One object on its way through frames, with its mask in each."""

    group: str
    name: str
    frames: list[np.ndarray]
    masks: list[np.ndarray]

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        return box_of(self.masks[0])


def outlined_objects(*, quick: bool) -> list[Outlined]:
    """All; --quick keeps every third coin."""
    found = coins()
    return [*(found[::3] if quick else found), *photographed(), *drawn(), *cut_outs()]


def coins() -> list[Outlined]:
    """24 coins, found by a watershed on the edges, which is none of the methods measured."""
    image = photograph("coins.png")
    markers = np.where(image[..., 0] < 30, 1, np.where(image[..., 0] > 150, 2, 0))
    filled = ndimage.binary_fill_holes(watershed(sobel(image[..., 0]), markers) - 1)
    labels, count = ndimage.label(filled)
    masks = [labels == number for number in range(1, count + 1)]
    kept = [mask for mask in masks if mask.sum() > 300]
    return [Outlined("coins", f"coin {n}", image, mask) for n, mask in enumerate(kept)]


def photographed() -> Iterator[Outlined]:
    """An embroidered patch outlined by hand, and the disc of a retina against its black ground."""
    yield patch()
    retina = photograph("retina.jpg")
    labels, _ = ndimage.label(retina.max(2) > 25)
    mask = ndimage.binary_fill_holes(labels == labels[705, 707])
    yield Outlined("photographs", "retina", retina, mask)


def patch() -> Outlined:
    """The round mission patch on the astronaut's arm."""
    image = photograph("astronaut.png")
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.ellipse(mask, (170, 386), (36, 36), 0, 0, 360, 1, cv2.FILLED)
    return Outlined("photographs", "mission patch", image, mask > 0)


def drawn() -> Iterator[Outlined]:
    for name in ("invoice", "station"):
        image = np.array(Image.open(io.BytesIO(scene(name).encoded)).convert("RGB"))
        for part, mask in scene(name).masks.items():
            yield Outlined("drawn", f"{part} of {name}", image, mask)


def cut_outs() -> Iterator[Outlined]:
    """The patch and a coin on other photographs."""
    for thing in (patch(), coins()[5]):
        for ground in GROUNDS:
            frames, masks = moved(thing, photograph(ground), [(140, 100)])
            yield Outlined("cut-outs", f"{thing.name} on {ground}", frames[0], masks[0])


def moving_objects(*, quick: bool) -> list[Moving]:
    """The patch along each path, over each ground, at each speed; --quick takes one ground.

    Then the patch enlarged, in larger frames.
    """
    thing, found = patch(), []
    for ground in GROUNDS[:1] if quick else GROUNDS:
        for start, end in PATHS:
            for count in COUNTS:
                path = straight(start, end, count)
                frames, masks = moved(thing, photograph(ground), path)
                found.append(Moving(f"{count} frames", f"{path[0]} on {ground}", frames, masks))
    rocket, large = photograph("rocket.jpg"), enlarged(thing, LARGE_SCALE)
    for start, end in (((130, 130), (500, 280)), ((500, 130), (130, 280))):
        frames, masks = moved(large, rocket, straight(start, end, 8), size=LARGE_FRAME_SIZE)
        found.append(Moving("large object, 8 frames", f"{start} on rocket.jpg", frames, masks))
    return found


def enlarged(thing: Outlined, scale: int) -> Outlined:
    image = cv2.resize(thing.image_HWC, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(thing.mask_HW.astype(np.float32), None, fx=scale, fy=scale) > 0.5
    return Outlined(thing.group, f"large {thing.name}", image, mask)


def moved(
    thing: Outlined,
    ground_HWC: np.ndarray,
    path: Sequence[tuple[float, float]],
    *,
    size: tuple[int, int] = FRAME_SIZE,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames with the object centred on each point of the path, inside the frame, and its masks."""
    x0, y0, x1, y1 = thing.box_px
    look, shape = thing.image_HWC[y0:y1, x0:x1], thing.mask_HW[y0:y1, x0:x1]
    noise = np.random.default_rng(0)
    height, width = size
    frames, masks = [], []
    for x, y in path:
        frame = ground_HWC[:height, :width].astype(np.float32)
        mask = np.zeros(size, dtype=bool)
        left, top = round(x) - shape.shape[1] // 2, round(y) - shape.shape[0] // 2
        place = np.s_[top : top + shape.shape[0], left : left + shape.shape[1]]
        frame[place][shape] = look[shape]
        mask[place] = shape
        noisy = frame + noise.normal(0, NOISE, frame.shape)
        frames.append(noisy.clip(0, 255).astype(np.uint8))
        masks.append(mask)
    return frames, masks


def straight(
    start: tuple[float, float], end: tuple[float, float], count: int
) -> list[tuple[float, float]]:
    xs, ys = np.linspace(start[0], end[0], count), np.linspace(start[1], end[1], count)
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]


def photograph(name: str) -> np.ndarray:
    """RGB uint8 HWC of one of scikit-image's pictures."""
    with Image.open(package_folder("skimage/data") / name) as image:
        return np.array(image.convert("RGB"))


def box_of(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    """End exclusive."""
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
