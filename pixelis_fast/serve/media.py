"""Clients' pictures and videos: from a URL to checked bytes to media of the store.

Sizes are read from headers and packets before anything is decoded. Knows no messages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import av
from PIL import Image

from pixelis_fast.serve.config import MediaRules
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fetch import PORTS, fetched
from pixelis_fast.serve.files import read_below, url_parts
from pixelis_fast.tools import MediaStore, ToolBox, ToolError
from pixelis_fast.types import Media, MediaKind

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
CONTAINERS = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "))
"""Offset and magic of the containers that are opened. Playlists, which FFmpeg would follow to other
files and hosts, are none of them."""
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class MediaUrl:
    """One image_url or video_url part.

    Example:
        MediaUrl("data:image/png;base64,iVBOR…", MediaKind.IMAGE, "messages[0].content[1]")
    """

    url: str
    kind: MediaKind
    param: str


def media_bytes(media: MediaUrl, rules: MediaRules, *, max_bytes: int) -> bytes:
    """The bytes a URL carries or names; ApiError for any other URL."""
    scheme, found, rest = media.url.partition(":")
    scheme = scheme.lower()
    if found and scheme == "data":
        return _data_bytes(rest, media)
    if found and scheme == "file":
        return _file_bytes(media, rules, max_bytes=max_bytes)
    if found and scheme in PORTS:
        return fetched(media.url, rules.fetch, max_bytes=max_bytes, param=media.param)
    raise ApiError(f"{media.param}: expected a data:, file: or http: URL", param=media.param)


def check_media(data: bytes, media: MediaUrl, rules: MediaRules) -> None:
    """ApiError unless the bytes are a picture or video within the rules."""
    if media.kind is MediaKind.IMAGE:
        _check_image(data, media, rules)
    else:
        _check_video(data, media, rules)


class MediaLedger:
    """Media in the store and who holds them: the last one to let go has them forgotten.

    Example:
        media = ledger.add(data, part)
        ledger.release([media.id])
    """

    def __init__(self, tools: ToolBox) -> None:
        self._tools = tools
        self._holders: dict[str, int] = {}
        self._lock = Lock()

    @property
    def store(self) -> MediaStore:
        return self._tools.store

    @property
    def num_media(self) -> int:
        return len(self._holders)

    def add(self, data: bytes, media: MediaUrl) -> Media:
        """Stores and holds; ApiError when the bytes do not decode."""
        # The store's own name for these bytes, held first: whoever else lets go of the same picture
        # while it is decoded here leaves it in the store.
        media_id = hashlib.sha256(data).hexdigest()
        self.hold([media_id])
        try:
            is_video = media.kind is MediaKind.VIDEO
            info = self.store.add_video(data) if is_video else self.store.add_image(data)
        except ToolError as error:
            self.release([media_id])
            raise ApiError(f"{media.param}: {error}", param=media.param) from error
        assert info.id == media_id, "the store names media by their bytes"
        return self._tools.media(info.id)

    def hold(self, media_ids: Iterable[str]) -> None:
        with self._lock:
            for media_id in media_ids:
                self._holders[media_id] = self._holders.get(media_id, 0) + 1

    def release(self, media_ids: Iterable[str]) -> None:
        with self._lock:
            for media_id in media_ids:
                self._holders[media_id] -= 1
                if not self._holders[media_id]:
                    del self._holders[media_id]
                    if media_id in self.store:
                        self.store.forget(media_id)

    def num_bytes(self, media_ids: Iterable[str]) -> int:
        """Encoded bytes of media."""
        return sum(len(self.store.encoded(media_id)) for media_id in media_ids)


def _data_bytes(rest: str, media: MediaUrl) -> bytes:
    head, found, body = rest.partition(",")
    mime, *options = head.split(";")
    if not found or options[-1:] != ["base64"] or not mime.startswith(f"{media.kind.value}/"):
        raise ApiError(
            f"{media.param}: expected data:{media.kind.value}/…;base64,…, got data:{head[:60]}",
            param=media.param,
        )
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(f"{media.param}: expected base64, got {error}", param=media.param) from error


def _file_bytes(media: MediaUrl, rules: MediaRules, *, max_bytes: int) -> bytes:
    if rules.root is None:
        raise ApiError(
            f"{media.param}: expected a data: URL, got file:; this server has no media root",
            param=media.param,
        )
    try:
        parts = url_parts(media.url, param=media.param)
    except ValueError as error:
        raise ApiError(f"{media.param}: expected a file URL, got {error}") from error
    return read_below(rules.root, parts, max_bytes=max_bytes, param=media.param)


def _check_image(data: bytes, media: MediaUrl, rules: MediaRules) -> None:
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
    except BROKEN_IMAGE as error:
        known = ", ".join(IMAGE_FORMATS)
        raise ApiError(f"{media.param}: expected one of {known}", param=media.param) from error
    _at_most(media, "pixels", width * height, rules.max_image_pixels)


def _check_video(data: bytes, media: MediaUrl, rules: MediaRules) -> None:
    if not any(data[start:].startswith(magic) for start, magic in CONTAINERS):
        raise ApiError(f"{media.param}: expected MP4, MOV, Matroska, WebM or AVI, got another file")
    with _opened(data, media) as container:
        if not container.streams.video:
            raise ApiError(f"{media.param}: expected a video stream, got none", param=media.param)
        stream = container.streams.video[0]
        _at_most(media, "pixels a frame", stream.width * stream.height, rules.max_video_pixels)
        if container.duration is not None:
            _at_most(media, "seconds", container.duration / av.time_base, rules.max_video_s)
        # Headers may lie; packets are counted without decoding.
        for number, _ in enumerate(container.demux(stream), start=1):
            # The last packet is empty: it flushes the decoder.
            _at_most(media, "frames", number - 1, rules.max_video_frames)


@contextmanager
def _opened(data: bytes, media: MediaUrl) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            yield container
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ApiError(
            f"{media.param}: expected an encoded video, got {len(data)} bytes that do not open",
            param=media.param,
        ) from error


def _at_most(media: MediaUrl, what: str, value: float, limit: float) -> None:
    if value > limit:
        raise ApiError(
            f"{media.param}: expected at most {limit:g} {what}, got {value:g}", param=media.param
        )
