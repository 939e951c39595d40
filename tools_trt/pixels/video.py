"""Videos: an index of timestamps made by one sequential decode, and the frames of short ones.

Times are seconds after the first frame. `read_video` hands back the frames it decoded for the
index when they fit a limit, so that a short video is decoded once; single frames of longer ones
are read by `VideoCursor`. Variable frame rates are kept: the index holds every frame's own time.
Knows no store and caches nothing.
"""

from __future__ import annotations

import bisect
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pixelis_fast.tools_trt.pixels.decoded_frame import DecodedFrame, plane_bytes
from pixelis_fast.tools_trt.results import ToolInputError


@dataclass(frozen=True)
class VideoIndex:
    """Where every frame of a video lies in time.

    Example:
        VideoIndex(640, 272, (0, 512), times_s=(0.0, 0.04), keyframes=(0,), duration_s=0.08,
                   frame_bytes=261_120)
    """

    width: int
    """After rotation, as a player shows it."""
    height: int
    pts: tuple[int, ...]
    """Presentation timestamps in the stream's time base, ascending."""
    times_s: tuple[float, ...]
    """Seconds after the first frame."""
    keyframes: tuple[int, ...]
    """Numbers of the frames that decode without their predecessors."""
    duration_s: float
    """End of the last frame."""
    frame_bytes: int
    """What a decoded frame holds in memory."""

    def nearest(self, time_s: float) -> int:
        """Number of the frame whose time is closest, the earlier one in a tie."""
        after = bisect.bisect_left(self.times_s, time_s)
        around = [n for n in (after - 1, after) if 0 <= n < len(self.times_s)]
        return min(around, key=lambda n: abs(self.times_s[n] - time_s))

    def group_of(self, number: int) -> range:
        """The frames from the last keyframe up to the next."""
        place = bisect.bisect_right(self.keyframes, number)
        return range(self.keyframes[place - 1], (*self.keyframes, len(self.pts))[place])


def read_video(encoded: bytes, *, keep_bytes: int) -> tuple[VideoIndex, dict[int, DecodedFrame]]:
    """Decodes the whole video once: its index, and {number: frame} of all frames, or of none.

    They are handed back if together they hold at most `keep_bytes`.
    """
    with decoder_errors(encoded), open_video(encoded) as container:
        return _read(container, keep_bytes)


def index_video(encoded: bytes) -> VideoIndex:
    """Decodes the whole video once, without colour conversion."""
    return read_video(encoded, keep_bytes=0)[0]


def open_video(encoded: bytes) -> Any:
    """A container with a video stream, to be closed."""
    # Names in a broken header need not be text.
    container = av.open(io.BytesIO(encoded), metadata_errors="replace")
    decoders = [stream.codec_context for stream in container.streams.video[:1]]
    if not decoders or decoders[0] is None:
        container.close()
        got = "one that nothing here decodes" if decoders else "none"
        raise ToolInputError(f"video: expected a video stream, got {got}")
    # One thread: callers decide how many cores a tool takes.
    decoders[0].thread_count = 1
    return container


@contextmanager
def decoder_errors(encoded: bytes) -> Iterator[None]:
    """Turns what the decoder raises into a ToolInputError."""
    try:
        yield
    except (av.FFmpegError, EOFError) as error:
        raise ToolInputError(
            f"video: expected an encoded video, got {len(encoded)} bytes that do not decode "
            f"({error})"
        ) from error


def _read(container: Any, keep_bytes: int) -> tuple[VideoIndex, dict[int, DecodedFrame]]:
    stream = container.streams.video[0]
    pts, keyframes, last = [], [], None
    kept: dict[int, Any] = {}
    free_bytes = keep_bytes
    for last in container.decode(stream):
        if last.pts is None:
            raise ToolInputError("video: expected a timestamp on every frame, got none")
        pts.append(last.pts)
        if last.key_frame:
            keyframes.append(last.pts)
        free_bytes -= plane_bytes(last)
        if free_bytes >= 0:
            kept.setdefault(last.pts, last)
        else:
            kept.clear()
    if last is None:
        raise ToolInputError("video: expected at least one frame, got a video of length zero")
    index = _index(last, pts, keyframes, stream.time_base)
    size = index.width, index.height
    return index, {n: DecodedFrame(kept[p], *size) for n, p in enumerate(index.pts) if p in kept}


def _index(last: Any, pts: list[int], keyframes: list[int], time_base: Fraction) -> VideoIndex:
    order = tuple(sorted(set(pts)))
    times_s = tuple(float((value - order[0]) * time_base) for value in order)
    tail_s = float(last.duration * time_base) if last.duration else _median_gap(times_s)
    number = {value: n for n, value in enumerate(order)}
    starts = tuple(sorted({number[value] for value in keyframes} | {0}))
    turned = last.rotation % 180 != 0
    width, height = (last.height, last.width) if turned else (last.width, last.height)
    end_s = times_s[-1] + tail_s
    return VideoIndex(width, height, order, times_s, starts, end_s, plane_bytes(last))


def _median_gap(times_s: tuple[float, ...]) -> float:
    gaps = np.diff(times_s)
    return float(np.median(gaps)) if len(gaps) else 0.0
