"""Still images: encoded bytes or an array in, RGB uint8 HWC out.

EXIF orientation is applied, palettes and grey are expanded, 16-bit samples keep their high byte,
transparency is laid over white (text on a transparent ground stays readable). An animated file
gives its first frame. Knows no store and no tool.
"""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pixelis_fast.tools_trt.results import ToolInputError

DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for bytes that are no picture or a broken one."""

HEADER_LOCK = threading.Lock()
"""numpy reads its header with Python's parser, which CPython 3.11 breaks off with a SystemError
when threads use it at the same time."""


def encoded_image(image: bytes | str | Path | np.ndarray) -> bytes:
    """The bytes of a picture; an array's are lossless."""
    if isinstance(image, np.ndarray):
        return encode_array(normalise_array(image))
    return read_media(image, "image")


def read_media(media: bytes | str | Path, kind: str) -> bytes:
    """Bytes as they are, or a file's."""
    if isinstance(media, bytes):
        return media
    if not isinstance(media, (str, Path)):
        raise ToolInputError(f"{kind}: expected bytes or a path, got {type(media).__name__}")
    try:
        return Path(media).read_bytes()
    except (OSError, ValueError) as error:
        raise ToolInputError(f"{kind}: expected a readable file, got {media} ({error})") from error


def pixels_digest(pixels_HWC: np.ndarray) -> str:
    """Equal for equal pictures, however they were encoded."""
    shape = np.asarray(pixels_HWC.shape, dtype="<i8").tobytes()
    return hashlib.sha256(shape + pixels_HWC.tobytes()).hexdigest()


def decode_image(encoded: bytes) -> np.ndarray:
    """Encoded picture (PNG, JPEG, WebP, … or the bytes of `encode_array`) to RGB uint8 HWC."""
    if encoded.startswith(b"\x93NUMPY"):
        return _decode_array(encoded)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(_to_rgb(upright))
    except DECODE_ERRORS as error:
        raise ToolInputError(
            f"image: expected an encoded picture, got {len(encoded)} bytes that do not decode "
            f"({error})"
        ) from error


def normalise_array(image: np.ndarray) -> np.ndarray:
    """HW, HW1, HW3 or HW4 of uint8 or uint16 to RGB uint8 HWC; a copy the caller cannot change."""
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or 0 in image.shape:
        raise ToolInputError(
            f"image: expected a uint8 or uint16 array HW or HWC, got {image.dtype} {image.shape}"
        )
    image_HWC = image[..., None] if image.ndim == 2 else image
    if image_HWC.shape[2] not in (1, 3, 4):
        raise ToolInputError(f"image: expected 1, 3 or 4 channels, got {image_HWC.shape[2]}")
    if image_HWC.dtype == np.uint16:
        image_HWC = (image_HWC >> 8).astype(np.uint8)
    if image_HWC.shape[2] == 4:
        return _over_white(Image.fromarray(np.ascontiguousarray(image_HWC), "RGBA"))
    return np.broadcast_to(image_HWC, (*image_HWC.shape[:2], 3)).copy()


def encode_array(image_HWC: np.ndarray) -> bytes:
    """Lossless bytes of an RGB array that decode without a copy and without a PNG's inflating."""
    buffer = io.BytesIO()
    np.save(buffer, image_HWC, allow_pickle=False)
    return buffer.getvalue()


def _decode_array(encoded: bytes) -> np.ndarray:
    try:
        with HEADER_LOCK:
            image = np.load(io.BytesIO(encoded), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ToolInputError(
            f"image: expected a numpy array, got broken bytes ({error})"
        ) from error
    return normalise_array(image)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return normalise_array(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise ToolInputError(f"image: expected 8 or 16 bits per sample, got PIL mode {image.mode}")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _over_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))
