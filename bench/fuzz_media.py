"""Broken and unusual pictures and videos, drawn from a seed: what `bench/fuzz.py` feeds the tools.

Each starts from a real photograph or clip, so that what survives the damage has something to show.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import av
import numpy as np
from PIL import Image

from bench.region_objects import photograph
from bench.scenes import scene

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class FuzzedMedia:
    """Encoded bytes and what they are offered as.

    Example:
        FuzzedMedia("truncated jpeg", "image", b"...")
    """

    name: str
    offered_as: Kind
    encoded: bytes


@cache
def base_picture() -> Image.Image:
    """A real photograph, small enough for thousands of calls."""
    return Image.fromarray(photograph("coffee.png")).resize((120, 80))


@cache
def base_frames() -> tuple[np.ndarray, ...]:
    """The first frames of a real clip."""
    with av.open(io.BytesIO(scene("carphone").encoded)) as container:
        frames = container.decode(video=0)
        return tuple(next(frames).to_ndarray(format="rgb24") for _ in range(12))


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@cache
def base_video(container_format: str = "mp4", codec: str = "libx264", gop: int = 5) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=Fraction(10))
        stream.height, stream.width = base_frames()[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        for image in base_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def sound_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    return buffer.getvalue()


def no_frames() -> bytes:
    """The header of a video whose pictures are gone."""
    data = base_video()
    start = data.index(b"mdat") + 4
    return data[:start] + bytes(len(data) - start) if data.index(b"moov") < start else data[:start]


def huge_header() -> bytes:
    """A PNG that promises more pixels than memory holds."""
    data = bytearray(saved(base_picture(), format="PNG"))
    data[16:24] = (200_000).to_bytes(4, "big") * 2
    return bytes(data)


def sixteen_bits() -> bytes:
    grey = np.asarray(base_picture().convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), format="PNG")


def animated(image_format: str) -> bytes:
    frames = [Image.fromarray(frame) for frame in base_frames()[:4]]
    return saved(frames[0], format=image_format, save_all=True, append_images=frames[1:])


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, most of them early: headers break in more ways than pixels."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        changed[int(len(changed) * rng.random() ** 3)] = rng.randrange(256)
    return bytes(changed)


def doubled(data: bytes, rng: random.Random) -> bytes:
    """A part repeated."""
    start = rng.randrange(len(data))
    return data[: start + rng.randrange(64)] + data[start:]


WHOLE_PICTURES: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(base_picture(), format="PNG"),
    "jpeg": lambda: saved(base_picture(), format="JPEG"),
    "progressive jpeg": lambda: saved(base_picture(), format="JPEG", progressive=True),
    "webp": lambda: saved(base_picture(), format="WEBP"),
    "bmp": lambda: saved(base_picture(), format="BMP"),
    "tiff": lambda: saved(base_picture(), format="TIFF"),
    "cmyk jpeg": lambda: saved(base_picture().convert("CMYK"), format="JPEG"),
    "palette png": lambda: saved(base_picture().quantize(16), format="PNG", transparency=3),
    "grey and alpha": lambda: saved(base_picture().convert("LA"), format="PNG"),
    "bilevel": lambda: saved(base_picture().convert("1"), format="PNG"),
    "16 bits": sixteen_bits,
    "float tiff": lambda: saved(base_picture().convert("F"), format="TIFF"),
    "animated gif": lambda: animated("GIF"),
    "animated webp": lambda: animated("WEBP"),
    "animated png": lambda: animated("PNG"),
    "1x1": lambda: saved(Image.new("RGB", (1, 1), (9, 200, 30)), format="PNG"),
    "20000x1": lambda: saved(base_picture().resize((20_000, 1)), format="PNG"),
    "1x20000": lambda: saved(base_picture().resize((1, 20_000)), format="PNG"),
    "2x3": lambda: saved(base_picture().resize((2, 3)), format="JPEG"),
}
ODD_BYTES: dict[str, Callable[[], bytes]] = {
    "nothing": bytes,
    "text": lambda: b"not a picture",
    "huge header": huge_header,
    "sound": sound_only,
    "no frames": no_frames,
    "numpy header": lambda: b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'shape': (2,)}",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='5' height='5'/>",
}
WHOLE_VIDEOS: dict[str, Callable[[], bytes]] = {
    "mp4": base_video,
    "long group": lambda: base_video(gop=1000),
    "matroska": lambda: base_video("matroska"),
    "mpeg4 avi": lambda: base_video("avi", "mpeg4"),
    "mpegts": lambda: base_video("mpegts"),
}
DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": cut,
    "flipped": flipped,
    "doubled": doubled,
}


def draw_media(rng: random.Random) -> FuzzedMedia:
    """Whole, damaged, or no media at all; now and then offered as the other kind."""
    kind: Kind = rng.choice(("image", "image", "video"))
    makers = WHOLE_PICTURES if kind == "image" else WHOLE_VIDEOS
    name = rng.choice(sorted(makers))
    encoded = makers[name]()
    choice = rng.random()
    if choice < 0.1:
        name = rng.choice(sorted(ODD_BYTES))
        encoded = ODD_BYTES[name]()
    elif choice < 0.55:
        damage = rng.choice(sorted(DAMAGE))
        name, encoded = f"{damage} {name}", DAMAGE[damage](encoded, rng)
    if rng.random() < 0.08:
        kind = "video" if kind == "image" else "image"
        name = f"{name} as {kind}"
    return FuzzedMedia(name, kind, encoded)
