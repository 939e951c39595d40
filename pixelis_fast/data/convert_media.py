"""Pictures and videos of a converted set, in one folder under names of their content.

A camera's picture may lie in its file turned, with an EXIF orientation that says how. The agent's
tools and policy see it upright, so a size here is the upright one and boxes are of that. A release
whose own code read and cut the raster as it lies (`raw`) means by its boxes, and by its words of
left and above, what its policy saw: there the orientation is taken off instead, and the agent sees
the same.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import ExifTags, Image, UnidentifiedImageError

from pixelis_fast.data.convert_views import Size
from pixelis_fast.tools import VIDEO_SUFFIXES

MEDIA_FOLDER = "media"
CHUNK = 1 << 20
SIDEWAYS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"})
NO_PICTURE = (UnidentifiedImageError, SyntaxError)
"""What PIL raises for a file of another kind, and for broken EXIF."""


@dataclass(frozen=True)
class StoredMedia:
    """A file of the folder.

    Example:
        StoredMedia("media/3f….png", (640, 480))
    """

    path: str
    """Relative to the records' file."""
    size: Size
    """As the agent sees it."""
    last_frame_s: float | None = None
    """None for an image."""


class MediaFolder:
    """Takes files and bytes; the same content once.

    Example:
        MediaFolder(Path("out")).add_file(Path("a.jpg"))
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        (out / MEDIA_FOLDER).mkdir(parents=True, exist_ok=True)

    def add_file(self, path: Path, *, raw: bool = False) -> StoredMedia:
        """Linked where the disk allows it, copied otherwise."""
        if not path.is_file():
            raise ValueError(f"media: expected the file {path}, found none")
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        if raw and not is_video and (raster := without_turn(path.read_bytes(), str(path))):
            return self.add_bytes(raster)
        name = self._name(content_hash(path), path.suffix.lower())
        kept = self._out / name
        if not kept.is_file():
            try:
                # The file itself: a link to a relative link would lead nowhere from there.
                os.link(path.resolve(), kept)
            except OSError:
                # Another disk, or one without links.
                copy_whole(path, kept)
        if is_video:
            return StoredMedia(name, *video_size(kept))
        return StoredMedia(name, picture_size(kept.read_bytes(), str(path)))

    def add_bytes(self, content: bytes, *, raw: bool = False) -> StoredMedia:
        """An encoded picture."""
        if raw:
            content = without_turn(content, "its bytes") or content
        size = picture_size(content, "its bytes")
        with Image.open(io.BytesIO(content)) as image:
            suffix = f".{(image.format or 'img').lower()}"
        name = self._name(hashlib.sha256(content).hexdigest(), suffix)
        (self._out / name).write_bytes(content)
        return StoredMedia(name, size)

    def _name(self, digest: str, suffix: str) -> str:
        return f"{MEDIA_FOLDER}/{digest[:24]}{suffix}"


def copy_whole(path: Path, kept: Path) -> None:
    """The file whole or not at all: its name says what is in it."""
    draft = kept.with_suffix(f"{kept.suffix}.draft")
    shutil.copyfile(path, draft)
    draft.replace(kept)


def content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_size(path: Path) -> Size | None:
    """None where the file is not there: releases come without the crops, too."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    return picture_size(without_turn(content, str(path)) or content, str(path))


def picture_size(content: bytes, where: str) -> Size:
    """Upright."""
    with opened(content, where) as (image, orientation):
        return image.size[::-1] if orientation in SIDEWAYS else image.size


def without_turn(content: bytes, where: str) -> bytes | None:
    """The raster as it lies, as a PNG; None where no orientation says that it is turned."""
    with opened(content, where) as (image, orientation):
        if orientation == 1:
            return None
        raster = image.copy() if image.mode in PNG_MODES else image.convert("RGB")
    for key in ("exif", "xmp"):
        raster.info.pop(key, None)
    buffer = io.BytesIO()
    raster.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def opened(content: bytes, where: str) -> Iterator[tuple[Image.Image, int]]:
    """A picture and its orientation, 1 where it lies upright."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image, image.getexif().get(ExifTags.Base.Orientation, 1)
    except NO_PICTURE as error:
        raise ValueError(f"media: expected a picture, got something else in {where}") from error


def video_size(path: Path) -> tuple[Size, float]:
    """Size, and the second of the last frame."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            frame_s = 1 / float(stream.average_rate or 25)
            return (stream.width, stream.height), max(seconds - frame_s, 0.0)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"media: expected a video, got something else in {path.name}") from error
