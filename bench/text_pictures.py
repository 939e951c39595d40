"""Pictures of text with a known transcript: drawn in four faces and seven sizes, and photographed.

Drawn ones carry sensor grain. `page.png` and the drawn scenes also come enlarged and reduced, and
cut into the strips that an agent asks for. `text.png` of scikit-image is left out: handwritten
formulas nobody transcribed. Deterministic; knows no reader.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.scenes import PAGE_TEXT, package_folder, scene

HEIGHTS = (8, 10, 12, 16, 24, 36, 56)
"""Font sizes in pixels: from the smallest a person reads to a headline."""
WORD_HEIGHTS = (10, 16, 36)
FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono-Bold", "STIXGeneral")
LETTER = (
    "Invoice 2024-117 Total: 1,284.50 EUR",
    "Ship to: 42 Market Street, Springfield",
    "The quick brown fox jumps over",
    "Reference AB-9931/Z due in 30 days",
    "Temperature 21.5 C humidity 48%",
)
WORDS = ("7", "A4", "EXIT 7", "Gate 21", "No. 3", "EUR", "619.30", "TAXI", "42%", "Q", "Total")
SIGNS = ("PLATFORM 7", "Gate 21")
PAGE = ("Region-based segmentation", *PAGE_TEXT, ">>> markers = np.zeros_like(coins)")
INK, PAPER = (20, 20, 20), (250, 250, 250)
WHITE, BLUE = (250, 250, 250), (24, 40, 70)
GRAIN = 4.0
"""Standard deviation of the noise, in grey levels."""


@dataclass(frozen=True)
class TextPicture:
    """One picture and what stands on it.

    Example:
        TextPicture("lines", "line of 12 px, DejaVuSans", image_HWC, ("Ship to: 42 Market …",))
    """

    group: str
    name: str
    image_HWC: np.ndarray
    lines: tuple[str, ...]
    """In reading order."""

    @property
    def letters(self) -> str:
        return letters(self.lines)


def letters(lines: Sequence[str]) -> str:
    """All characters but spaces: how wide a gap is a space is a matter of taste."""
    return "".join("".join(lines).split())


def text_pictures(*, quick: bool) -> list[TextPicture]:
    """All, or every tenth of each group for --quick."""
    groups: dict[str, list[TextPicture]] = {}
    for picture in (*drawn_pictures(), *words(), *photographed_page(), *scene_pictures()):
        groups.setdefault(picture.group, []).append(picture)
    step = 10 if quick else 1
    return [picture for group in groups.values() for picture in group[step // 2 :: step]]


def drawn_pictures() -> Iterator[TextPicture]:
    """Letters, single lines, and signs in a large picture."""
    noise = np.random.default_rng(7)
    for height in HEIGHTS:
        for face in FACES:
            where, width = f"{height} px, {face}", 25 * height + 40
            letter = drawn(LETTER, face, height, width=width, margin=max(8, height // 2))
            yield TextPicture("letters", f"letter of {where}", grained(letter, noise), LETTER)
            line = drawn(
                LETTER[1:2], face, height, width=width, margin=max(3, height // 4), step=1.2
            )
            yield TextPicture("lines", f"line of {where}", grained(line, noise), LETTER[1:2])
        yield TextPicture("signs", f"signs of {height} px", grained(signs(height), noise), SIGNS)


def words() -> Iterator[TextPicture]:
    """Short words alone, light on dark and dark on light in turn."""
    noise = np.random.default_rng(5)
    for number, (height, word) in enumerate((h, w) for h in WORD_HEIGHTS for w in WORDS):
        face, is_light = FACES[number % len(FACES)], number % 2 == 0
        colors = {"ink": WHITE, "paper": BLUE} if is_light else {}
        width = int(0.8 * height * len(word)) + 30
        image = drawn((word,), face, height, width=width, margin=max(5, height // 3), step=1.2,
                      **colors)  # fmt: skip
        name = f"{word!r} of {height} px, {face}"
        yield TextPicture("words", name, grained(image, noise), (word,))


def photographed_page() -> Iterator[TextPicture]:
    page = pixels("page")
    height, width = page.shape[:2]
    for scale in (0.75, 1.0, 1.5, 2.0, 3.0):
        yield TextPicture("page.png", f"page.png x {scale}", scaled(page, scale), PAGE)
    heading = page[int(0.03 * height) : int(0.18 * height), : int(0.8 * width)]
    for scale in (0.75, 1.0, 1.5, 2.0):
        name = f"heading of page.png x {scale}"
        yield TextPicture("page.png", name, scaled(heading, scale), PAGE[:1])


def scene_pictures() -> Iterator[TextPicture]:
    """The drawn scenes of the chains, whole and in strips."""
    for name in ("invoice", "station"):
        for scale in (0.35, 0.5, 0.75, 1.0, 1.5):
            image = scaled(pixels(name), scale)
            yield TextPicture("scenes", f"{name} x {scale}", image, scene(name).lines)
    invoice, station = pixels("invoice"), pixels("station")
    rows = ((40, 105), (135, 180), (190, 235), (245, 290), (320, 368), (380, 440))
    for (top, bottom), line in zip(rows, scene("invoice").lines, strict=True):
        for scale in (0.5, 1.0):
            image = scaled(invoice[top:bottom], scale)
            yield TextPicture("strips", f"invoice, rows from {top} x {scale}", image, (line,))
    for scale in (0.5, 1.0):
        image = scaled(station[43:157], scale)
        yield TextPicture("strips", f"station's signs x {scale}", image, scene("station").lines)
    for column, line in enumerate(scene("station").lines):
        image = station[60:141, 40 + 310 * column : 300 + 310 * column]
        yield TextPicture("strips", f"sign {column} of station", image, (line,))


def drawn(
    lines: Sequence[str],
    face: str,
    height: int,
    *,
    width: int,
    margin: int,
    step: float = 1.8,
    ink: tuple[int, int, int] = INK,
    paper: tuple[int, int, int] = PAPER,
) -> np.ndarray:
    """Lines under each other, `step` font sizes apart; RGB uint8 HWC."""
    image = Image.new("RGB", (width, int(len(lines) * height * step + 2 * margin)), paper)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        top = margin + number * height * step
        draw.text((margin, top), line, font=font(face, height), fill=ink)
    return np.array(image)


def dense_page(num_lines: int) -> tuple[np.ndarray, list[str]]:
    """A letter's body and its lines, of 18 px, closely set."""
    lines = [LETTER[n % len(LETTER)] for n in range(num_lines)]
    return drawn(lines, "DejaVuSans", 18, width=900, margin=24, step=1.7), lines


def signs(height: int) -> np.ndarray:
    """Two plates in front of a sky of 640 x 480."""
    sky = np.linspace(90, 220, 640)[None, :, None] * np.ones((480, 1, 3))
    image = Image.fromarray(sky.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for number, label in enumerate(SIGNS):
        left, top = 30 + 70 * number, 60 + 200 * number
        draw.rectangle((left, top, left + 8 * height, top + int(1.4 * height)), fill=BLUE)
        draw.text((left + 4, top), label, font=font("DejaVuSans", height), fill=WHITE)
    return np.array(image)


def font(face: str, height: int) -> ImageFont.FreeTypeFont:
    path = package_folder("matplotlib/mpl-data/fonts/ttf") / f"{face}.ttf"
    return ImageFont.truetype(str(path), height)


def grained(image_HWC: np.ndarray, noise: np.random.Generator) -> np.ndarray:
    noisy = image_HWC + noise.normal(0, GRAIN, image_HWC.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def pixels(name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(scene(name).encoded)).convert("RGB"))


def scaled(image_HWC: np.ndarray, scale: float) -> np.ndarray:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image_HWC, None, fx=scale, fy=scale, interpolation=how)
