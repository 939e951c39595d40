"""One open decoder of a video, which goes on from where it stands.

A frame behind the decoder in the same group of pictures costs the frames in between; anything else
one seek to its keyframe. Who keeps frames says for how many there is room. A group that fits is
decoded to its end when it is entered a second time, and never entered a third time. Of a longer one
as many frames are offered as fit: those before the frame asked for, and from the second entry on
half before and half behind it, so that steps back and forth find their neighbours. Safe to share
between threads: they take turns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from pixelis_fast.tools_trt.pixels.decoded_frame import DecodedFrame
from pixelis_fast.tools_trt.pixels.video import VideoIndex, decoder_errors, open_video
from pixelis_fast.tools_trt.results import ToolInputError

Keep = Callable[[int, DecodedFrame], object]
"""Called with every decoded frame's number and the frame."""
MAX_OPEN = 4
"""Videos whose decoders stay open."""


class VideoCursor:
    """Frames of one video by number.

    Example:
        cursor = VideoCursor(encoded, index_video(encoded))
        image_HWC = cursor.read(120).rgb()
    """

    def __init__(self, encoded: bytes, index: VideoIndex) -> None:
        self.num_entries = 0
        """How often decoding began at a keyframe."""
        self.num_decoded = 0
        self._encoded, self._index = encoded, index
        self._numbers = {pts: number for number, pts in enumerate(index.pts)}
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._start, self._last = 0, -1
        """Where decoding began, and the highest number decoded since."""
        self._entered: set[int] = set()
        self._lock = threading.Lock()

    def read(
        self, number: int, *, keep: Keep | None = None, room: int | None = None
    ) -> DecodedFrame:
        """The frame; the last `room` frames decoded on the way, or all, are offered to `keep`."""
        room = 0 if keep is None else len(self._index.pts) if room is None else room
        with self._lock, decoder_errors(self._encoded):
            try:
                return self._read(number, self._goal(number, room), keep=keep, room=room)
            except BaseException:
                # Nobody knows where a decoder stands that failed.
                self._release()
                raise

    def close(self) -> None:
        """Lets the decoder go; reading again opens another."""
        with self._lock:
            self._release()

    def _goal(self, number: int, room: int) -> int:
        """Stands before the frame; the number of the last frame to decode."""
        group = self._index.group_of(number)
        if self._container is not None and self._last < number and group.start <= self._last + 1:
            return number
        self._jump(group.start)
        is_known = group.start in self._entered
        self._entered.add(group.start)
        if not is_known:
            return number
        return group[-1] if len(group) <= room else min(number + room // 2, group[-1])

    def _read(self, number: int, goal: int, *, keep: Keep | None, room: int) -> DecodedFrame:
        wanted = None
        for found, frame in self._walk():
            if keep is not None and found > goal - room:
                keep(found, frame)
            wanted = frame if found == number else wanted
            if wanted is not None and self._last >= goal:
                return wanted
        if wanted is None:
            raise ToolInputError(f"video: expected frame {number}, got an early end")
        return wanted

    def _jump(self, start: int) -> None:
        self.num_entries += 1
        if self._container is None or start == 0:
            self._release()
            self._container = open_video(self._encoded)
        stream = self._container.streams.video[0]
        if start > 0:
            self._container.seek(self._index.pts[start], stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        self._start, self._last = start, start - 1

    def _walk(self) -> Iterator[tuple[int, DecodedFrame]]:
        """What follows. Frames before the keyframe may lack their references: passed over."""
        for frame in self._frames:
            self.num_decoded += 1
            number = self._numbers.get(frame.pts, -1)
            if number >= self._start:
                self._last = max(self._last, number)
                yield number, DecodedFrame(frame, self._index.width, self._index.height)

    def _release(self) -> None:
        self._frames = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None


class OpenVideos:
    """The decoders of the videos that were read lately."""

    def __init__(self) -> None:
        self._cursors: OrderedDict[str, VideoCursor] = OrderedDict()
        self._lock = threading.Lock()

    def cursor(self, media_id: str, encoded: bytes, index: VideoIndex) -> VideoCursor:
        with self._lock:
            found = self._cursors.pop(media_id, None) or VideoCursor(encoded, index)
            self._cursors[media_id] = found
            least = self._cursors.popitem(last=False)[1] if len(self._cursors) > MAX_OPEN else None
        if least is not None:
            least.close()
        return found

    def close(self, media_id: str) -> None:
        """Lets a video's decoder go, if it is open."""
        with self._lock:
            found = self._cursors.pop(media_id, None)
        if found is not None:
            found.close()
