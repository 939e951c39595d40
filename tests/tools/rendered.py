"""Documents drawn with a known text, for tests of reading."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LINES = (
    "Invoice 2024-117 Total: 1,284.50 EUR",
    "Ship to: 42 Market Street, Springfield",
    "The quick brown fox jumps over",
    "Reference AB-9931/Z due in 30 days",
    "Temperature 21.5 C humidity 48%",
)


def font(size, name="DejaVuSans.ttf"):
    spec = find_spec("matplotlib")
    assert spec is not None, "matplotlib is not installed: pip install 'pixelis-fast[baseline]'"
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data/fonts/ttf" / name, size)


def document(
    size,
    *,
    name="DejaVuSans.ttf",
    angle=0,
    lines=LINES,
    width=480,
    ink=(20, 20, 20),
    paper=(250,) * 3,
):
    """RGB uint8 HWC."""
    image = Image.new("RGB", (width, int(len(lines) * size * 1.8 + 40)), paper)
    draw = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        draw.text((20, 20 + n * size * 1.8), line, font=font(size, name), fill=ink)
    return np.array(image.rotate(angle, expand=True, fillcolor=paper))
