"""Reads files below one folder, and nothing else: no absolute path, no "..", no symbolic link.

Every component is opened relative to the one before it without following links, so nothing can be
swapped between a check and the read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pixelis_fast.serve.errors import ApiError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A named pipe would block an open without O_NONBLOCK.
PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def url_parts(url: str, *, param: str) -> list[str]:
    """Components of file:///folder/name.png, which names a file below the media root."""
    split = urlsplit(url)
    if split.netloc not in ("", "localhost"):
        raise ApiError(f"{param}: expected a file URL without a host, got {split.netloc}")
    if split.query or split.fragment:
        raise ApiError(f"{param}: expected a file URL without query or fragment", param=param)
    parts = unquote(split.path, errors="strict").removeprefix("/").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ApiError(
            f"{param}: expected a path below the media root without '.', '..' or empty parts",
            param=param,
        )
    return parts


def read_below(root: Path, parts: list[str], *, max_bytes: int, param: str) -> bytes:
    """The file's bytes; ApiError when it is not there, is no plain file, or is too large."""
    try:
        descriptor = _open_below(root, parts)
    except OSError as error:
        # The same words for what is missing and what may not be seen.
        raise ApiError(
            f"{param}: expected a plain file below the media root, got {'/'.join(parts)}",
            param=param,
            code="media_not_found",
        ) from error
    try:
        return _read(descriptor, parts, max_bytes=max_bytes, param=param)
    finally:
        os.close(descriptor)


def _open_below(root: Path, parts: list[str]) -> int:
    folder = os.open(root.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1], PLAIN, dir_fd=folder)
    finally:
        os.close(folder)


def _read(descriptor: int, parts: list[str], *, max_bytes: int, param: str) -> bytes:
    facts = os.fstat(descriptor)
    name = "/".join(parts)
    if not stat.S_ISREG(facts.st_mode):
        raise ApiError(f"{param}: expected a plain file, got {name}", param=param)
    if facts.st_size > max_bytes:
        raise ApiError(
            f"{param}: expected a file of at most {max_bytes} bytes, got {facts.st_size}",
            status=413,
            param=param,
        )
    # No more than the size that was checked, should the file grow meanwhile.
    return os.pread(descriptor, facts.st_size, 0)
