"""Which memories and pointers a frame attends to: SAM 2's rule, on frame numbers alone.

All conditioning (prompted) frames, or the closest ones under a limit; then the last
`memory_frames - 1` tracked frames, thinned by a stride, the last one always. Pointers come from the
same conditioning frames, if not in the future, and from the last `pointer_slots - 1` frames. A
frame without a record is skipped. Source: `SAM2Base._prepare_memory_conditioned_features`
of the sam2 package. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class AttendRule:
    """The numbers of the rule; defaults are those of every released checkpoint."""

    memory_frames: int = 7
    pointer_slots: int = 16
    stride: int = 1
    """Of tracked frames; the last one is attended to whatever the stride."""
    max_conditioning: int | None = None
    """Conditioning frames attended to, the closest first; None for all."""

    def __post_init__(self) -> None:
        low = min(self.memory_frames, self.pointer_slots, self.stride)
        if low < 1 or (self.max_conditioning is not None and self.max_conditioning < 2):
            raise ValueError(f"attend: expected counts >= 1, max_conditioning >= 2, got {self}")

    @property
    def reach(self) -> int:
        """How many of the frames just tracked the next one may look back on."""
        return max((self.memory_frames - 2) * self.stride + 1, self.pointer_slots - 1)


@dataclass(frozen=True)
class Attended:
    """What one frame attends to.

    Example:
        Attended(memories=((0, 0), (3, 1)), pointers=((0, 4), (3, 1)))  # frame 4: prompt at 0
    """

    memories: tuple[tuple[int, int], ...]
    """(frame, steps of the stride back in tracking order); 0 for every conditioning frame."""
    pointers: tuple[tuple[int, int], ...]
    """(frame, how many frames it lies back in tracking order)."""


def attend(
    frame: int,
    *,
    conditioning: Collection[int],
    tracked: Collection[int],
    reverse: bool,
    rule: AttendRule,
) -> Attended:
    """What `frame` attends to, given the frames that have records."""
    chosen = closest(conditioning, frame, limit=rule.max_conditioning)
    # A conditioning frame beyond the limit counts as a tracked one.
    others = set(tracked) | (set(conditioning) - set(chosen))
    recent = _recent_frames(frame, reverse=reverse, rule=rule)
    memories = [(number, 0) for number in chosen]
    memories += [(number, back) for number, back in recent if number in others]
    step = -1 if reverse else 1
    pointers = [(number, (frame - number) * step) for number in chosen]
    pointers = [(number, back) for number, back in pointers if back >= 0]
    backs = range(1, rule.pointer_slots)
    pointers += [(frame - step * b, b) for b in backs if frame - step * b in others]
    return Attended(tuple(memories), tuple(pointers))


def closest(frames: Collection[int], frame: int, *, limit: int | None) -> list[int]:
    """At most `limit` frames: the next before, the next not before, then the nearest."""
    if limit is None or len(frames) <= limit:
        return list(frames)
    before = max((number for number in frames if number < frame), default=None)
    after = min((number for number in frames if number >= frame), default=None)
    first = [number for number in (before, after) if number is not None]
    rest = sorted((n for n in frames if n not in first), key=lambda n: abs(n - frame))
    return [*first, *rest][:limit]


def _recent_frames(frame: int, *, reverse: bool, rule: AttendRule) -> Iterable[tuple[int, int]]:
    """(frame, steps back) of the tracked frames that the rule looks for."""
    step, stride = (-1 if reverse else 1), rule.stride
    # Reflected, a backward pass obeys the forward rule.
    now = frame * step
    for back in range(rule.memory_frames - 1, 0, -1):
        number = now - 1 if back == 1 else ((now - 2) // stride - (back - 2)) * stride
        yield number * step, back
