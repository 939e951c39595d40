"""Pictures and videos of a converted set, in one folder under names of their content."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
from PIL import Image, UnidentifiedImageError

from pixelis_fast.data.convert_views import Size
from pixelis_fast.tools import VIDEO_SUFFIXES

MEDIA_FOLDER = "media"
CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredMedia:
    """A file of the folder.

    Example:
        StoredMedia("media/3f….png", (640, 480))
    """

    path: str
    """Relative to the records' file."""
    size: Size
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

    def add_file(self, path: Path) -> StoredMedia:
        """Linked where the disk allows it, copied otherwise."""
        if not path.is_file():
            raise ValueError(f"media: expected the file {path}, found none")
        name = self._name(content_hash(path), path.suffix.lower())
        kept = self._out / name
        if not kept.is_file():
            try:
                # The file itself: a link to a relative link would lead nowhere from there.
                os.link(path.resolve(), kept)
            except OSError:
                # Another disk, or one without links.
                copy_whole(path, kept)
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return StoredMedia(name, *video_size(kept))
        return StoredMedia(name, picture_size(kept.read_bytes(), str(path)))

    def add_bytes(self, content: bytes) -> StoredMedia:
        """An encoded picture."""
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
    return picture_size(path.read_bytes(), str(path)) if path.is_file() else None


def picture_size(content: bytes, where: str) -> Size:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except UnidentifiedImageError as error:
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
