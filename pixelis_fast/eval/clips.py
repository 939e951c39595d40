"""Part of a video, or a folder of frames, as a clip of its own: what some questions are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av

from pixelis_fast.types import Span

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
QUALITY = "16"
"""libx264's constant rate factor: as good as the source to the eye."""


def cut(video: Path, span: Span, out: Path) -> Path:
    """The frames whose time lies in the span; made once."""
    if out.is_file():
        return out
    with av.open(str(video)) as source:
        stream = source.streams.video[0]
        rate = stream.average_rate or Fraction(25)
        frames = (f for f in source.decode(stream) if span[0] <= float(f.time or 0.0) <= span[1])
        return encode(frames, out, rate=rate, what=f"{video}: {span[0]} s to {span[1]} s")


def joined(folder: Path, out: Path, *, rate: int) -> Path:
    """A folder's pictures in order of their names; made once."""
    if out.is_file():
        return out
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in FRAME_SUFFIXES)
    return encode(_pictures(paths), out, rate=Fraction(rate), what=str(folder))


def _pictures(paths: Iterable[Path]) -> Iterator[av.VideoFrame]:
    for path in paths:
        with av.open(str(path)) as source:
            yield next(source.decode(video=0))


def encode(frames: Iterator[av.VideoFrame], out: Path, *, rate: Fraction, what: str) -> Path:
    """Writes the file whole or not at all; odd sides lose a pixel."""
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{what}: expected at least one frame, got none")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".draft.mp4")
    with av.open(str(draft), "w") as target:
        stream = target.add_stream("libx264", rate=rate, options={"crf": QUALITY})
        stream.width, stream.height = first.width // 2 * 2, first.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(chain([first], frames)):
            image = frame.to_ndarray(format="rgb24")[: stream.height, : stream.width]
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = number, 1 / rate
            target.mux(stream.encode(picture))
        target.mux(stream.encode())
    return draft.replace(out)
